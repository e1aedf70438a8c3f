"""Disturb real runs and check that they end with the same bits as undisturbed runs.

    python -m tests.chaos --faults 25
    python -m tests.chaos --faults 100 --seed 3 --places machine --kinds "worker killed,disk full" --out faults.jsonl
    python -m tests.chaos --table faults.jsonl more.jsonl

Faults are injected every few steps of a run, all kinds in turn in an order that the seed determines. On this machine:
workers are killed, stopped and paused; the driver is killed (also while it writes a checkpoint) and its run resumed;
checkpoints are truncated or get a bit flipped; the disk is filled; Ray's raylet and control service are paused, stopped
and killed. On a cluster of several raylets: nodes are killed and added. Between network namespaces: links are cut and
restored. On both: the servers of the nodes and of the head are paused, stopped and killed. Prints a table by kind of
fault; exits with 1 at the first run that ends with different bits, hangs, or does not end as it should.

Ctrl-C, SIGINT and SIGTERM end it, also in the background of a shell; its processes, network namespaces, disks and files
are then removed. What is left after SIGKILL is removed by the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.faults import ClusterFaults, Fault, MachineFaults
from tests.chaos.owned import owned_folder
from tests.chaos.places import Namespaces, Raylets, SmallDisk
from tests.chaos.runs import Lost, Run

# More steps than any run makes before its last fault.
N_STEPS = 1_000_000
DISK_BYTES = 12_000_000
FAULTS_A_RUN = {"machine": 14, "raylets": 6, "namespaces": 6}


class Chaos:
    """Injects faults and records the recovery times.

    Args:
        seed: Seed of the kinds and times of the faults.
        folder: Folder for the runs.
        kinds: Names of the kinds of faults; empty for all.
        out: File to which each fault is appended.
    """

    def __init__(self, seed: int, folder: Path, kinds: list[str], out: Path | None) -> None:
        self._seed, self._random = seed, random.Random(seed)
        self._folder, self._kinds, self._out = folder, kinds, out
        self._turns: dict[str, list[str]] = {}
        self.n_runs = 0
        self.survived: list[tuple[str, float]] = []

    def _next_kind(self, place: str, known: dict[str, Fault]) -> str:
        """Return the next kind of fault in a place: all in turn, in a random order."""
        if unknown := set(self._kinds) - set(known):
            sys.exit(f"kinds has {', '.join(unknown)}; those on {place} are: {', '.join(known)}.")
        turn = self._turns.setdefault(place, [])
        if not turn:
            turn += self._kinds or list(known)
            self._random.shuffle(turn)
        return turn.pop()

    def _inject(self, kind: str, fault: Fault, run: Run) -> bool:
        """Inject a fault. Return False if it was not possible, or the run has ended."""
        run.skip()
        try:
            happened = fault(run)
        except Lost as lost:
            raise Lost(f"{kind}: {lost}") from None
        # The first step may have started before the fault. If the run has ended meanwhile, the fault does not count.
        recovered = happened and run.wait_step(2)
        if recovered:
            seconds = time.monotonic() - run.skipped
            print(f"  {kind:<28} recovered after {seconds:5.2f} s", flush=True)
            self.survived.append((kind, seconds))
            if self._out is not None:
                with self._out.open("a") as file:
                    file.write(json.dumps({"kind": kind, "seconds": round(seconds, 3), "seed": self._seed}) + "\n")
        return recovered

    def _disturb(self, place: str, run: Run, faults: MachineFaults | ClusterFaults, n_faults: int) -> None:
        for _ in range(n_faults):
            if not run.wait_step(self._random.randint(5, 30)):
                break
            kind = self._next_kind(place, faults.kinds)
            if not self._inject(kind, faults.kinds[kind], run):
                self._turns[place].insert(0, kind)  # later
        sha256 = run.finish()
        expected = Run(self._folder / f"undisturbed-{self.n_runs}", run.step, "0").to_end()
        if sha256 != expected:
            raise Lost(f"{run.folder} ended with {sha256} after {run.step} steps, not {expected}")
        left = list(run.folder.rglob("*.part")) + list(run.folder.rglob("unfinished"))
        if left:
            raise Lost(f"files left behind: {left}")

    def on_machine(self, n_faults: int) -> None:
        """Disturb a run in its own Ray session."""
        self.n_runs += 1
        disk = SmallDisk(self._folder / f"disk-{self.n_runs}", DISK_BYTES)
        run = Run(disk.folder / "run", N_STEPS, self._random.choice(["1", "2", "3"]))
        try:
            self._disturb("machine", run, MachineFaults(self._random, disk), n_faults)
        finally:
            run.kill()
            disk.close()

    def on_cluster(self, place: str, n_faults: int) -> None:
        """Disturb a run on a cluster whose nodes come and go."""
        self.n_runs += 1
        cluster = (Raylets if place == "raylets" else Namespaces)(self._folder / f"ray-{self.n_runs}")
        folder = self._folder / f"cluster-{self.n_runs}"
        run = Run(folder, N_STEPS, "1:3", cluster.address, cluster.prefix, cluster.environment)
        try:
            self._disturb(place, run, ClusterFaults(self._random, cluster), n_faults)
        finally:
            run.kill()
            cluster.close()


def table(survived: Iterable[tuple[str, float]]) -> str:
    """Return a table of the faults by kind, with the seconds to the next finished step."""
    by_kind: dict[str, list[float]] = {}
    for kind, seconds in survived:
        by_kind.setdefault(kind, []).append(seconds)
    lines = ["| fault | injected | survived | seconds to recover, median | worst |", "|---|---|---|---|---|"]
    for kind, times in sorted(by_kind.items()):
        n = len(times)
        lines.append(f"| {kind} | {n} | {n} | {statistics.median(times):.2f} | {max(times):.2f} |")
    n = sum(map(len, by_kind.values()))
    return "\n".join([*lines, f"| all | {n} | {n} | | |"])


def table_of_files(paths: list[Path]) -> str:
    """Return the table of several runs of this command with ``--out``."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return table((row["kind"], row["seconds"]) for row in rows)


def stop(number: int, _: object) -> None:
    """End this command when it gets a signal; a shell has SIGINT ignored in its background."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # until all is removed
    raise SystemExit(f"stopped by {signal.Signals(number).name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=25, help="number of faults (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (default: 0)")
    parser.add_argument("--places", default="machine,raylets,namespaces", help="where, separated by commas")
    parser.add_argument("--kinds", default="", help="kinds of faults, separated by commas (default: all)")
    parser.add_argument("--out", type=Path, help="file to which each fault that was survived is appended")
    parser.add_argument("--table", type=Path, nargs="+", help="inject nothing; print the table of such files")
    options = parser.parse_args()
    if options.table:
        print(table_of_files(options.table))
        return 0
    places, kinds = options.places.split(","), [kind.strip() for kind in options.kinds.split(",") if kind]
    if "namespaces" in places and (os.geteuid() != 0 or not Path("/usr/sbin/ip").exists()):
        print("network namespaces are skipped: they need root and the ip command of iproute2")
        places.remove("namespaces")
    # Runs on clusters take longer to set up, so there are fewer of them.
    schedule = [place for place in ("machine", "raylets", "machine", "namespaces", "machine") if place in places]
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with owned_folder() as folder:
        chaos = Chaos(options.seed, folder, kinds, options.out)
        n_in_vain = 0
        try:
            while (left := options.faults - len(chaos.survived)) > 0:
                place = schedule[chaos.n_runs % len(schedule)]
                print(f"run {chaos.n_runs + 1}, {place}", flush=True)
                before = len(chaos.survived)
                n = min(left, FAULTS_A_RUN[place])
                if place == "machine":
                    chaos.on_machine(n)
                else:
                    chaos.on_cluster(place, n)
                n_in_vain = 0 if len(chaos.survived) > before else n_in_vain + 1
                if n_in_vain == 3:
                    raise Lost("no fault of these kinds was possible in three runs")
        except Lost as lost:
            print(f"\n{table(chaos.survived)}\n\nLOST: {lost}", flush=True)
            return 1
        print(f"\n{table(chaos.survived)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
