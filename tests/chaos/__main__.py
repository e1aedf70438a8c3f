"""Disturb real runs and check that they end with the same bits as undisturbed runs.

    python -m tests.chaos --faults 25

A fault is drawn after every few steps of a run. On this machine: workers are killed, stopped and
paused; the driver is killed (also while it writes a checkpoint) and its run resumed; checkpoints are
truncated or get a bit flipped; the disk is filled. On a cluster of several raylets: nodes are killed
and added. Between network namespaces: links are cut and restored. The seed determines the faults.
Prints a table by kind of fault; exits with 1 at the first run that ends with different bits.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.places import Namespaces, Raylets, SmallDisk
from tests.chaos.runs import Lost, Run

# More steps than any run makes before its last fault.
N_STEPS = 1_000_000
DISK_BYTES = 12_000_000
FAULTS_A_RUN = {"machine": 12, "raylets": 6, "namespaces": 4}
# Seconds after the death of a driver within which all processes of its session must end.
CLEAN_S = 10.0


class Chaos:
    """Injects faults and records the recovery times.

    Args:
        seed: Seed of the kinds and times of the faults.
        folder: Folder for the runs.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self.n_runs = 0
        self.seconds: dict[str, list[float]] = {}

    def expected(self, n_steps: int) -> str:
        """Return the checksum after ``n_steps`` undisturbed steps."""
        return Run(self._folder / f"undisturbed-{self.n_runs}", n_steps, "0").to_end()

    def _recovered(self, kind: str, started: float) -> None:
        self.seconds.setdefault(kind, []).append(time.monotonic() - started)
        print(f"  {kind:<28} recovered after {self.seconds[kind][-1]:5.2f} s", flush=True)

    def _check(self, run: Run) -> None:
        sha256 = run.finish()
        expected = self.expected(run.step)
        if sha256 != expected:
            raise Lost(f"{run.folder} ended with {sha256} after {run.step} steps, not {expected}")
        left = list(run.folder.rglob("*.part")) + list(run.folder.rglob("unfinished"))
        if left:
            raise Lost(f"files left behind: {left}")

    # --- on this machine ------------------------------------------------------------

    def on_machine(self, n_faults: int) -> None:
        """Disturb a run on its own Ray session."""
        self.n_runs += 1
        disk = SmallDisk(self._folder / f"disk-{self.n_runs}", DISK_BYTES)
        kinds: list[Callable[[Run], str]] = [self._kill_worker, self._stop_worker, self._pause_worker]
        kinds += [self._kill_driver, self._kill_driver_while_it_writes, self._truncate, self._flip]
        if disk.small:
            kinds.append(lambda run: self._fill(run, disk))
        try:
            run = Run(disk.folder / "run", N_STEPS, self._random.choice(["1", "2", "3"]))
            for _ in range(n_faults):
                if not run.wait_step(self._random.randint(5, 30)):
                    break
                self._inject(self._random.choice(kinds), run)
            self._check(run)
        finally:
            disk.close()

    def _inject(self, fault: Callable[[Run], str], run: Run) -> None:
        run.skip()
        started = time.monotonic()
        kind = fault(run)
        # The first step may have started before the fault. If the run has ended meanwhile, the fault does not count.
        if kind and run.wait_step(2):
            self._recovered(kind, started)

    def _random_worker(self, run: Run) -> int | None:
        pids = run.worker_pids()
        return self._random.choice(pids) if pids else None

    def _signal_worker(self, run: Run, number: int) -> int | None:
        pid = self._random_worker(run)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    def _kill_worker(self, run: Run) -> str:
        return "worker killed" if self._signal_worker(run, signal.SIGKILL) else ""

    def _stop_worker(self, run: Run) -> str:
        return "worker stopped" if self._signal_worker(run, signal.SIGSTOP) else ""

    def _pause_worker(self, run: Run) -> str:
        pid = self._signal_worker(run, signal.SIGSTOP)
        if pid is None:
            return ""
        time.sleep(self._random.uniform(0.05, 1.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        return "worker paused"

    def _kill_driver(self, run: Run, kind: str = "driver killed", damage: Callable[[Run], None] | None = None) -> str:
        pids = run.worker_pids()
        time.sleep(self._random.uniform(0, 0.05))
        run.kill()
        deadline = time.monotonic() + CLEAN_S
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            if time.monotonic() > deadline:
                raise Lost(f"{CLEAN_S:g} s after its driver was killed, a worker is still running")
            time.sleep(0.02)
        if damage is not None:
            damage(run)
        run.begin()
        return kind

    def _kill_driver_while_it_writes(self, run: Run) -> str:
        newest = max((run.folder / "checkpoints").glob("step-*"), default=None)
        deadline = time.monotonic() + 5
        while max((run.folder / "checkpoints").glob("step-*"), default=None) == newest:
            if time.monotonic() > deadline or run.process.poll() is not None:
                return ""
        return self._kill_driver(run, "driver killed while writing")

    def _newest(self, run: Run) -> Path | None:
        return max((run.folder / "checkpoints").glob("step-*"), default=None)

    def _truncate(self, run: Run) -> str:
        def truncate(run: Run) -> None:
            if path := self._newest(run):
                content = path.read_bytes()
                path.write_bytes(content[: self._random.randrange(len(content))])

        return self._kill_driver(run, "checkpoint truncated", truncate) if self._has_several_checkpoints(run) else ""

    def _flip(self, run: Run) -> str:
        def flip(run: Run) -> None:
            if path := self._newest(run):
                content = bytearray(path.read_bytes())
                content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
                path.write_bytes(bytes(content))

        return self._kill_driver(run, "checkpoint flipped", flip) if self._has_several_checkpoints(run) else ""

    def _has_several_checkpoints(self, run: Run) -> bool:
        """Return whether an intact checkpoint is left if the newest is damaged."""
        return len(list((run.folder / "checkpoints").glob("step-*"))) > 1

    def _fill(self, run: Run, disk: SmallDisk) -> str:
        disk.fill()
        while run.wait_step():  # until it fails to write
            pass
        disk.free()
        if run.sha256:
            return ""
        if run.process.returncode == 0:
            raise Lost("a run that could not write ended with 0")
        run.begin()
        return "disk full"

    # --- on a cluster ---------------------------------------------------------------

    def on_cluster(self, place: str, n_faults: int) -> None:
        """Disturb a run on a cluster whose nodes come and go."""
        self.n_runs += 1
        cluster: Raylets | Namespaces = Raylets() if place == "raylets" else Namespaces()
        lost, added = ("node killed", "node added") if place == "raylets" else ("link cut", "link restored, new node")
        try:
            folder = self._folder / f"cluster-{self.n_runs}"
            run = Run(folder, N_STEPS, "1:3", cluster.address, cluster.prefix, cluster.environment)
            for _ in range(n_faults):
                if not run.wait_step(self._random.randint(10, 60)):
                    break
                chosen = self._random.choice(["lose", "add", "worker"])
                if chosen == "worker" and place == "raylets":
                    self._inject(self._kill_worker, run)
                elif chosen == "lose":
                    self._wait_for_workers(run, 2)
                    self._inject(lambda run: lost if cluster.lose_node() else "", run)
                else:
                    self._inject(lambda run: added if cluster.add_node() else "", run)
            self._check(run)
        finally:
            if "run" in locals() and run.process.poll() is None:
                run.kill()
            cluster.close()

    def _wait_for_workers(self, run: Run, n: int) -> None:
        """Wait until ``n`` workers run, so that a lost node makes a difference."""
        deadline = time.monotonic() + CLEAN_S
        while len(run.worker_pids()) < n and time.monotonic() < deadline and run.wait_step():
            pass

    def table(self) -> str:
        """Return a table of the faults by kind, with the seconds to the next finished step."""
        lines = ["| fault | injected | survived | seconds to recover, median | worst |", "|---|---|---|---|---|"]
        for kind, seconds in sorted(self.seconds.items()):
            n = len(seconds)
            lines.append(f"| {kind} | {n} | {n} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")
        n = sum(len(seconds) for seconds in self.seconds.values())
        return "\n".join([*lines, f"| all | {n} | {n} | | |"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=25, help="number of faults (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (default: 0)")
    parser.add_argument("--places", default="machine,raylets,namespaces", help="where, separated by commas")
    options = parser.parse_args()
    places = options.places.split(",")
    if "namespaces" in places and (os.geteuid() != 0 or not Path("/usr/sbin/ip").exists()):
        print("network namespaces are skipped: they need root and the ip command of iproute2")
        places.remove("namespaces")
    # Runs on clusters take longer to set up, so there are fewer of them.
    schedule = [place for place in ("machine", "raylets", "machine", "namespaces", "machine") if place in places]
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        chaos = Chaos(options.seed, Path(folder))
        try:
            while (left := options.faults - sum(map(len, chaos.seconds.values()))) > 0:
                place = schedule[chaos.n_runs % len(schedule)]
                print(f"run {chaos.n_runs + 1}, {place}", flush=True)
                n = min(left, FAULTS_A_RUN[place])
                if place == "machine":
                    chaos.on_machine(n)
                else:
                    chaos.on_cluster(place, n)
        except Lost as lost:
            print(f"\n{chaos.table()}\n\nLOST: {lost}", flush=True)
            return 1
        print(f"\n{chaos.table()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
