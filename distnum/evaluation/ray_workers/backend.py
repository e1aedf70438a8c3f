"""Evaluations on Ray workers that stay for many calls."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.common.events import Event, OnEvent, log
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.programs.folders import WorkFolders
from distnum.evaluation.ray_workers.actor import EvaluationWorker, Setup
from distnum.evaluation.ray_workers.deaths import Deaths
from distnum.evaluation.ray_workers.dispatch import Dispatch
from distnum.evaluation.ray_workers.functions import Functions
from distnum.evaluation.ray_workers.jobs import Job, name_of
from distnum.evaluation.ray_workers.messages import EvaluationTask, unpacked_outcomes
from distnum.evaluation.ray_workers.turns import Stream, Turns
from distnum.workers.pool import Closing
from distnum.workers.ray_pool.roster import WorkerCounts
from distnum.workers.ray_pool.team import RayTeam, sendable

__all__ = ["RayBackend"]

# Replaced entries in one task: a message is built and sent at once.
_MOST_ENTRIES = 1_000_000


class RayBackend(Closing):
    """A ``Backend`` that evaluates on Ray actors.

    Args:
        n_workers: Number of workers, or a function that returns the counts for a number of CPUs and nodes.
        address: Address of a running Ray cluster; None starts one on this machine.
        resources: Resources of each worker besides CPUs, by Ray's names.
        prepare: Called once in each worker when it starts.
        workdir: Folders in which functions are called.
        wait_s: Seconds to wait when there are no workers.
        on_event: Called with an event when a worker joins, is lost or fails to start.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs or resources.
        TrainingError: The workers do not start.
    """

    def __init__(
        self,
        n_workers: int | Callable[[int, int], WorkerCounts],
        address: str | None = None,
        *,
        resources: Mapping[str, float] | None = None,
        prepare: Callable[[], object] | None = None,
        workdir: WorkFolders | None = None,
        wait_s: float = 60.0,
        on_event: OnEvent | None = None,
    ) -> None:
        self._team = team = RayTeam(n_workers, 1, address, resources=resources)
        try:
            team.start(EvaluationWorker, Setup(prepare, workdir, team.folder), wait_s, on_event or _log)
        except BaseException:
            team.close()
            raise
        self._functions = Functions(team.ray)
        self._deaths = Deaths(team.ray, team.roster)
        self._turns = Turns()
        self._n_turns = 0
        self._last_call: FunctionCall | None = None
        self._last_pickled = ("", b"")
        self._pid = os.getpid()

    @property
    def n_workers(self) -> int:
        """Current number of workers."""
        return len(self._team.workers)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._team.workers]

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points as they finish. See ``Backend``."""
        if len(points):
            name, pickled = self._pickled_call(call)
            yield from self.run(_Evaluations(name, pickled, call.step, points, limits, describe))

    @property
    def cloudpickle(self) -> Any:
        """The module that pickles functions."""
        return self._team.ray.cloudpickle

    def pickled(self, function: Any) -> bytes:
        """A function, pickled for the workers.

        Raises:
            InputError: It cannot be pickled.
        """
        content: bytes = sendable(self._team.ray, self.cloudpickle.dumps, function)
        return content

    def _pickled_call(self, call: FunctionCall) -> tuple[str, bytes]:
        """Name and content of a function for the workers; made once for all rounds and steps of a call."""
        if not call.is_of(self._last_call):
            content = self.pickled(replace(call, step=0))
            self._last_call, self._last_pickled = call, (name_of(content), content)
        return self._last_pickled

    def run(self, job: Job[Any]) -> Stream:
        """The results of a job as they finish.

        Calls of other threads wait for its end. A later call of the same thread ends it: it may have been left
        unfinished by an exception.

        Raises:
            InputError: A later call has ended this one, or this process is a copy (fork) of the one that has started
                the workers.
        """
        return self._turns.taken_by(lambda: self._results(job))

    def _results(self, job: Job[Any]) -> Iterator[Any]:
        if os.getpid() != self._pid:
            raise InputError("these workers belong to the process of which this one is a copy (fork).")
        self._n_turns += 1
        return Dispatch(self._team, self._functions, self._deaths, job, self._n_turns).run()

    def close(self) -> None:
        """End the workers, and the session if these are its last users."""
        self._team.close()
        if os.getpid() == self._pid:  # not in a copy (fork), whose files these are not
            self._deaths.close()


class _Evaluations:
    """Evaluations of one function at points: a ``Job``."""

    def __init__(
        self,
        function: str,
        pickled: bytes,
        step: int,
        points: Points,
        limits: Limits,
        describe: Callable[[int], str],
    ) -> None:
        self.function, self.pickled, self.limits, self.describe = function, pickled, limits, describe
        self._step = step
        self._points = points
        self._n_drawn = 0
        self._again: Counter[int] = Counter()
        self.most_points = max(1, _MOST_ENTRIES * len(points) // max(1, len(points.entries)))

    def draw(self, most: int) -> NDArray[np.int64]:
        begin = self._n_drawn
        self._n_drawn = min(begin + most, len(self._points))
        return np.arange(begin, self._n_drawn)

    def n_new(self, at_least: int) -> int:
        return len(self._points) - self._n_drawn

    def task(self, turn: int, numbers: NDArray[np.int64], budget_s: float, first: bool) -> tuple[EvaluationTask, None]:
        points = self._points.take(numbers)
        return EvaluationTask(turn, self.function, numbers, self.limits, budget_s, points, first, self._step), None

    def results(self, reply: bytes) -> tuple[Outcomes, bool]:
        outcomes, raised = unpacked_outcomes(reply)
        counts = Counter(outcomes.retried)
        for number in set(self._again).intersection(outcomes.numbers.tolist()) - set(outcomes.failures):
            counts[number] += self._again[number]
        return replace(outcomes, retried=dict(counts)), raised

    def again(self, number: int) -> None:
        self._again[number] += 1

    def failed(self, number: int, failure: Failure) -> Outcomes:
        return Outcomes(np.array([number]), np.empty((1, 0)), None, np.array([np.nan]), {number: failure}, failure.host)

    def without(self, results: Outcomes, numbers: set[int]) -> Outcomes:
        if not numbers:
            return results
        kept = np.array([number not in numbers for number in results.numbers.tolist()], bool)
        failures = {number: failure for number, failure in results.failures.items() if number not in numbers}
        retried = {number: count for number, count in results.retried.items() if number not in numbers}
        return replace(
            results,
            retried=retried,
            numbers=results.numbers[kept],
            values=results.values[kept],
            seconds=results.seconds[kept],
            failures=failures,
        )


def _log(event: Event) -> None:
    """Log an event: faults as warnings, others for debugging."""
    if event.kind == "worker_joined":
        log.debug("%s", event.text)
    else:
        log.warning("%s", event.text)
