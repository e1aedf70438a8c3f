"""Why a worker died, whether its function is the cause, and the end of what the function has started."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from distnum.common.errors import EvaluationError, LostError
from distnum.evaluation.errors import raised_at, traced
from distnum.evaluation.outcomes import Failure
from distnum.evaluation.ray_workers.ends import End, end_family, end_of
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.reasons import ENDED_AT_ONCE, cause_of, crash_file, n_oom_kills, reason_of
from distnum.workers.ray_pool.roster import Roster

__all__ = ["Deaths", "failed_at"]

_OTHER_NODE_S, _ERROR_TIMEOUT_S = 20.0, 60.0
_MEMORY = ("out of memory", "low on memory")
_NO_TRACE = "its process ended without a trace: it was killed (SIGKILL), or called _exit of C."
# The system's memory killer is the cause of a death only if it has killed a process in these last seconds.
_OOM_S = 10.0


class Deaths:
    """Finds out why workers died, and ends workers.

    Args:
        ray: The connected ``ray`` module.
        roster: The workers.

    Attributes:
        files: Paths of the files that tell how processes have ended, by the number of the worker.
    """

    def __init__(self, ray: Any, roster: Roster) -> None:
        self._ray = ray
        self._roster = roster
        self.files: dict[int, str] = {}
        self._oom_kills: deque[tuple[float, int]] = deque()

    def look(self) -> None:
        """Note the number of processes that the system's memory killer has ended; to be called now and then."""
        now = perf_counter()
        if self._oom_kills and self._oom_kills[-1][0] < now - _OOM_S:
            self._oom_kills.clear()
        self._oom_kills.append((now, n_oom_kills()))
        while len(self._oom_kills) > 1 and self._oom_kills[1][0] < now - _OOM_S:
            self._oom_kills.popleft()

    def end_of(self, worker: RayWorker, error: Exception) -> End:
        """Why a worker died; of kind ``"lost"`` if its function is not known to be the cause.

        Args:
            worker: The worker, not yet removed.
            error: The error that its death caused.
        """
        if self._oom_kills:
            worker.n_oom_kills = max(worker.n_oom_kills, self._oom_kills[0][1])
        reason = reason_of(error, worker, self._roster.here)
        record = self._record(worker)
        end = end_of(record or b"")
        if end is None and any(text in reason for text in _MEMORY):
            end = End("crash", "ran out of memory: " + reason.rstrip("."), "")
        if record is not None and reason == ENDED_AT_ONCE:
            reason = _NO_TRACE
        return end or End("lost", reason, "")

    def end(self, worker: RayWorker, reason: str, quiet: bool = False) -> None:
        """End a worker and the children of its function, and have it replaced."""
        if worker.node == self._roster.here:
            end_family(worker.pid)
        self._roster.give_up(worker, 0, reason, quiet)
        if file := self.files.pop(worker.number, None):
            _remove(file)

    def close(self) -> None:
        """Remove the files that are on this machine."""
        for file in self.files.values():
            _remove(file)

    def kept_exception(
        self, worker: RayWorker, failures: Mapping[int, Failure], describe: Callable[[int], str]
    ) -> BaseException:
        """The exception that a worker keeps, with the place where it was raised.

        Args:
            worker: The worker, which takes calls of Ray.
            failures: The failures in its reply; the last one is that of the exception, if it concerns one point.
            describe: Returns a phrase for a point.
        """
        number, failure = list(failures.items())[-1] if failures else (None, None)
        try:
            self._ray.get(worker.actor.error.remote(), timeout=_ERROR_TIMEOUT_S)
        except self._ray.exceptions.RayTaskError as error:
            raised = cause_of(error)
            if number is None or failure is None:
                return raised
            return raised_at(raised, _place(describe(number), worker), failure.traceback)
        raise LostError("a worker was lost while it sent the exception of the function")

    def _record(self, worker: RayWorker) -> bytes | None:
        """What the worker's file tells; None if it cannot be read."""
        file = self.files.get(worker.number) or (str(crash_file(worker.address)) if worker.address else "")
        if not file:
            return None
        if worker.node == self._roster.here:
            return _read(file)
        return self._read_there(file, worker)

    def _read_there(self, file: str, worker: RayWorker) -> bytes | None:
        """Read a file on the node of a worker, and end the worker's children; None if the node is lost."""
        strategies = __import__("ray.util.scheduling_strategies", fromlist=["NodeAffinitySchedulingStrategy"])
        with contextlib.suppress(self._ray.exceptions.RayError):
            strategy = strategies.NodeAffinitySchedulingStrategy(worker.node, soft=False)
            task = self._ray.remote(_read_and_end).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
            record: bytes | None = self._ray.get(task.remote(file, worker.pid), timeout=_OTHER_NODE_S)
            return record
        return None


def failed_at(failure: Failure, where: str, worker: RayWorker) -> BaseException:
    """The error to raise for a point whose worker died."""
    text = f"{failure.text[:1].upper()}{failure.text[1:].rstrip('.')} {_place(where, worker)}."
    error = LostError(text) if failure.kind == "lost" else EvaluationError(text)
    return traced(error, failure.traceback)


def _place(where: str, worker: RayWorker) -> str:
    return f"{where}, on worker {worker.number} ({worker.host})"


def _remove(file: str) -> None:
    with contextlib.suppress(OSError):  # it is on another node, or has gone with its folder
        os.unlink(file)


def _read(file: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return Path(file).read_bytes()
    return None


def _read_and_end(file: str, pid: int) -> bytes | None:
    """Read the file of a dead worker on its node, and end the process group that it led."""
    end_family(pid)
    record = _read(file)
    _remove(file)
    return record
