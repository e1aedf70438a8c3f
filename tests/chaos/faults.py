"""The kinds of faults: on this machine, and on a cluster whose nodes come and go.

Each fault is a function of a run. It disturbs the run, resumes it if it has ended, and returns whether it did so:
some faults cannot happen at every moment.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

from tests.chaos.places import HEAD, Namespaces, Raylets, SmallDisk
from tests.chaos.runs import Lost, Run, ray_server

Fault = Callable[[Run], bool]

# Seconds after the death of a driver within which all processes of its session must end.
CLEAN_S = 10.0
# Seconds after the loss of Ray within which a run must save a checkpoint and say so: 15, and a step.
SAYS_S = 20.0
# Seconds after that within which it must end: Ray's own end takes long on a busy machine.
ENDS_S = 60.0
LOST_LINE = "The Ray cluster is lost: "
# Where Ray uses the object store of a raylet that has just ended, it ends the process before that can save its state.
ENDED_BY_RAY = "the training was ended by the system, by Ray"
# Steps that may then be done again: a checkpoint is written every ten steps, and the last one may be unfinished.
MOST_LOST_STEPS = 20
# Seconds for a new node to start and its worker to join.
JOINED_S = 20.0
# Seconds within which Ray must notice that a node has been lost.
NOTICED_S = 20.0


def send(pid: int | None, number: int) -> bool:
    """Send a signal to a process. Return False if there is none."""
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def wait_until_ended(pids: list[int], what: str) -> None:
    """Wait for the end of processes."""
    deadline = time.monotonic() + CLEAN_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            raise Lost(f"{CLEAN_S:g} s after its driver has ended, {what} is still running")
        time.sleep(0.02)


class Faults:
    """Faults that are possible in every place."""

    def __init__(self, numbers: random.Random) -> None:
        self._random = numbers

    def _worker(self, run: Run) -> int | None:
        pids = run.worker_pids()
        return self._random.choice(pids) if pids else None

    def _kill_worker(self, run: Run) -> bool:
        return send(self._worker(run), signal.SIGKILL)

    def _pause(self, pid: int | None, shortest_s: float, longest_s: float) -> bool:
        if not send(pid, signal.SIGSTOP):
            return False
        time.sleep(self._random.uniform(shortest_s, longest_s))
        return send(pid, signal.SIGCONT)

    def _kill_driver(self, run: Run, cut_off: Collection[int] = ()) -> None:
        pids = [pid for pid in run.worker_pids() if pid not in cut_off]
        time.sleep(self._random.uniform(0, 0.05))
        run.kill()
        wait_until_ended(pids, "a worker")

    def _lose_ray(self, run: Run, pid: int | None, number: int) -> bool:
        """Kill or stop a server that a run cannot do without. The run must save its state, say so, and end."""
        if not send(pid, number):
            return False
        deadline = time.monotonic() + SAYS_S
        while LOST_LINE not in run.log_end() and run.process.poll() is None:
            if time.monotonic() > deadline:
                raise Lost(f"it has not said that Ray is lost for {SAYS_S:g} s: {run.log_end()}")
            time.sleep(0.1)
        seconds = run.wait_end(ENDS_S)
        by_ray = ENDED_BY_RAY in run.log_end() and number == signal.SIGKILL
        if run.process.returncode != 1 or not (LOST_LINE in run.log_end() or by_ray):
            raise Lost(f"it ended after {seconds:.1f} s with code {run.process.returncode}: {run.log_end()}")
        newest = run.newest()
        saved = -1 if newest is None else int(newest.stem.removeprefix("step-"))
        if saved < run.step - (MOST_LOST_STEPS if by_ray else 0):
            raise Lost(f"it ended after step {run.step}, but its newest checkpoint is {newest}")
        print(f"  ended {'by Ray' if by_ray else 'by itself'} after {seconds:.1f} s, {run.step - saved} steps unsaved")
        return True


class MachineFaults(Faults):
    """Faults of a run in a Ray session of its own, and of its disk."""

    def __init__(self, numbers: random.Random, disk: SmallDisk) -> None:
        super().__init__(numbers)
        self._disk = disk
        self.kinds: dict[str, Fault] = {
            "worker killed": self._kill_worker,
            "worker stopped": lambda run: send(self._worker(run), signal.SIGSTOP),
            "worker paused": lambda run: self._pause(self._worker(run), 0.05, 1.0),
            "driver killed": lambda run: self._kill_and_resume(run, lambda: None),
            "driver killed while writing": self._kill_driver_while_it_writes,
            "checkpoint truncated": lambda run: self._damage(run, self._truncated),
            "checkpoint flipped": lambda run: self._damage(run, self._flipped),
            "disk full": self._fill,
            "own raylet paused": lambda run: self._pause(ray_server(run.process.pid, "raylet"), 1.0, 4.0),
            "own raylet stopped": lambda run: self._lose_own_ray(run, "raylet", signal.SIGSTOP),
            "own raylet killed": lambda run: self._lose_own_ray(run, "raylet", signal.SIGKILL),
            "own control service paused": lambda run: self._pause(ray_server(run.process.pid, "gcs_server"), 1.0, 4.0),
            "own control service stopped": lambda run: self._lose_own_ray(run, "gcs_server", signal.SIGSTOP),
            "own control service killed": lambda run: self._lose_own_ray(run, "gcs_server", signal.SIGKILL),
        }

    def _kill_and_resume(self, run: Run, damage: Callable[[], object]) -> bool:
        self._kill_driver(run)
        damage()
        run.begin()
        return True

    def _kill_driver_while_it_writes(self, run: Run) -> bool:
        newest = run.newest()
        deadline = time.monotonic() + 5
        while run.newest() == newest:
            if time.monotonic() > deadline or run.process.poll() is not None:
                return False
        return self._kill_and_resume(run, lambda: None)

    def _damage(self, run: Run, damaged: Callable[[bytes], bytes]) -> bool:
        while len(list((run.folder / "checkpoints").glob("step-*"))) < 2:  # an intact one must be left
            if not run.wait_step():
                return False
        run.skip()

        def damage() -> None:
            if path := run.newest():
                path.write_bytes(damaged(path.read_bytes()))

        return self._kill_and_resume(run, damage)

    def _truncated(self, content: bytes) -> bytes:
        return content[: self._random.randrange(len(content))]

    def _flipped(self, content: bytes) -> bytes:
        flipped = bytearray(content)
        flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _fill(self, run: Run) -> bool:
        if not self._disk.small:
            return False
        self._disk.fill()
        while run.wait_step():  # until it fails to write
            pass
        self._disk.free()
        if run.sha256:
            return False
        if run.process.returncode == 0:
            raise Lost("a run that could not write ended with 0")
        run.begin()
        return True

    def _lose_own_ray(self, run: Run, name: str, number: int) -> bool:
        servers = {one: ray_server(run.process.pid, one) for one in ("raylet", "gcs_server")}
        pids = [pid for pid in servers.values() if pid] + run.worker_pids()
        if not self._lose_ray(run, servers[name], number):
            return False
        wait_until_ended(pids, "one of its processes")
        run.begin()
        return True


class ClusterFaults(Faults):
    """Faults of a cluster of several nodes, and of its links."""

    def __init__(self, numbers: random.Random, cluster: Raylets) -> None:
        super().__init__(numbers)
        self._cluster = cluster
        links = isinstance(cluster, Namespaces)
        lost, added = ("link cut", "link restored") if links else ("node killed", "node added")
        self.kinds: dict[str, Fault] = {
            lost: lambda run: self._with_nodes(run) and cluster.lose_node(),
            f"{lost} at the start": self._lose_node_at_the_start,
            added: self._add_node,
            "node's raylet paused": self._pause_raylet,
            "node's raylet stopped": self._stop_raylet,
            "head's raylet paused": lambda run: self._pause(cluster.server(HEAD, "raylet"), 0.5, 2.0),
            "head's raylet stopped": lambda run: self._lose_head(run, "raylet", signal.SIGSTOP),
            "head's raylet killed": lambda run: self._lose_head(run, "raylet", signal.SIGKILL),
            "control service paused": lambda run: self._pause(cluster.server(HEAD, "gcs_server"), 1.0, 4.0),
            "control service stopped": lambda run: self._lose_head(run, "gcs_server", signal.SIGSTOP),
            "control service killed": lambda run: self._lose_head(run, "gcs_server", signal.SIGKILL),
        }
        if not links:
            self.kinds["worker killed"] = self._kill_worker

    def _with_nodes(self, run: Run) -> bool:
        """Wait until a worker runs on another node than the head, so that a lost node makes a difference."""
        if not self._cluster.others():
            self._cluster.add_node()
        deadline = time.monotonic() + JOINED_S
        while len(run.worker_pids()) < 2 and time.monotonic() < deadline and run.wait_step():
            pass
        run.skip()
        return True

    def _add_node(self, run: Run) -> bool:
        return self._cluster.add_node() or (self._cluster.lose_node() and self._cluster.add_node())

    def _lose_node_at_the_start(self, run: Run) -> bool:
        """Lose a node while a run is resumed: Ray still places workers there."""
        self._with_nodes(run)
        self._kill_driver(run, self._cluster.workers_cut_off())
        self._cluster.lose_node()
        run.begin()
        return True

    def _raylet(self, run: Run) -> tuple[int, int] | None:
        """Return the number of a node other than the head, and the process id of its raylet."""
        self._with_nodes(run)
        for number in self._cluster.others()[:1]:
            if pid := self._cluster.server(number, "raylet"):
                return number, pid
        return None

    def _pause_raylet(self, run: Run) -> bool:
        found = self._raylet(run)
        return found is not None and self._pause(found[1], 0.5, 2.0)

    def _stop_raylet(self, run: Run) -> bool:
        """Stop a node's raylet for good, and wait until the run has given up the node's workers."""
        found = self._raylet(run)
        if found is None or not send(found[1], signal.SIGSTOP):
            return False
        self._cluster.mark_lost(found[0])
        there = self._cluster.workers(found[0])
        deadline = time.monotonic() + NOTICED_S
        while there.intersection(run.worker_pids()) and run.wait_step():
            if time.monotonic() > deadline:
                raise Lost(f"{NOTICED_S:g} s after a node's raylet was stopped, its workers are still used")
        return True

    def _lose_head(self, run: Run, name: str, number: int) -> bool:
        if not self._lose_ray(run, self._cluster.server(HEAD, name), number):
            return False
        self._cluster.restart()
        run.begin()
        return True
