"""The points of one call: which an idle worker gets next, and which are finished. No Ray here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.ray_workers.copies import Copies
from distnum.evaluation.ray_workers.jobs import Job, Results
from distnum.evaluation.ray_workers.pace import Pace
from distnum.evaluation.ray_workers.supply import Supply

__all__ = ["Allotment"]

R = TypeVar("R", bound=Results)

Numbers = NDArray[np.int64]


class Allotment(Generic[R]):
    """The points of one job on their way to the workers and back.

    Args:
        job: What is asked for.
        seconds: Seconds of one evaluation in earlier calls; None if unknown.

    Attributes:
        pace: How long evaluations take.
    """

    def __init__(self, job: Job[R], seconds: float | None) -> None:
        self._job = job
        self._supply = Supply(job.draw)
        self._copies = Copies()
        self.pace: Pace[Any] = Pace(seconds)

    def n_left(self, n_workers: int = 0) -> int:
        """Number of points that no worker has, or one that is large for this number of workers."""
        return self._supply.n_returned + self._job.n_new(self.pace.enough(n_workers))

    def take(self, worker: Any, n_left: int, n_workers: int) -> tuple[Numbers, float]:
        """Points for a worker, perhaps none, and the seconds after which it begins no further one."""
        n, budget_s = self.pace.task(worker, n_left, n_workers)
        return self._copies.needed(self._supply.take(min(self._job.most_points, n))), budget_s

    def leave_to_others(self, worker: Any, n_left: int, n_workers: int, tasks: Iterable[tuple[Numbers, float]]) -> bool:
        """Whether a slow worker should get nothing, as the others will have finished everything before it would.

        They will not if one of them is overdue.
        """
        if not self.pace.is_too_slow(worker, n_left, n_workers):
            return False
        overdue = [self.pace.is_overdue(len(numbers), for_s) for numbers, for_s in tasks]
        return bool(overdue) and not any(overdue)

    def copy_an_overdue_task(self, tasks: Iterable[tuple[Numbers, float]]) -> int:
        """Add the points of a worker that is overdue to those that no worker has.

        Args:
            tasks: Points of each worker, and the seconds since it has begun the first of them.

        Returns:
            Number of points that no worker has.
        """
        for numbers, for_s in tasks:
            if self.pace.is_overdue(len(numbers), for_s) and len(new := self._copies.add(numbers)):
                self._supply.give_back_singly(new)
                break
        return self._supply.n_returned

    def are_done(self, numbers: Numbers) -> bool:
        """Whether other workers have finished all these points."""
        return not len(numbers) or self._copies.are_done(numbers)

    def finished(self, worker: Any, numbers: Numbers, results: R) -> R:
        """Take the results of a first part of a task's points; return those that are new."""
        self.pace.learn(worker, results.seconds)
        left = numbers[len(results.numbers) :]
        if self._copies:
            results = self._job.without(results, self._copies.finished(results.numbers))
            left = self._copies.ended(left)
        self._supply.give_back(left)
        return results

    def lost(self, numbers: Numbers, culprit: int | None) -> int | None:
        """Take back the points of a worker that has died.

        Args:
            numbers: Its points.
            culprit: The point that has ended it; None if unknown.

        Returns:
            The point that has ended it, which is not taken back; None if that remains unknown. All points are then
            evaluated by themselves.
        """
        if len(numbers) == 1:
            culprit = int(numbers[0])
        left = self._copies.ended(numbers)
        if culprit is None or culprit not in numbers:
            self._supply.give_back_singly(left)
            return None
        self._supply.give_back(left[left != culprit])
        return culprit if culprit in left else None

    def not_begun(self, numbers: Numbers) -> None:
        """Take back points that a worker has not begun."""
        self._supply.give_back(self._copies.ended(numbers))

    def try_again(self, number: int) -> None:
        """Take back a point, to be evaluated by itself."""
        self._job.again(number)
        self._supply.give_back_singly(np.array([number]))
