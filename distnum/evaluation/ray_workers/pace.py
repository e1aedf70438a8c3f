"""How long evaluations take, and what follows for the size of tasks. No Ray here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import ceil
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pace", "task_size"]

# Seconds of evaluations in one task, and those after which a worker begins no further one.
_TASK_S, _BUDGET_S = 0.05, 0.1
# A task is not made shorter than this to let all workers finish at the same time.
_LEAST_S = 0.001
# Weight of the newest times: the first ones are often long, as something is loaded or compiled.
_NEWEST = 0.7
# An evaluation that takes these seconds is long compared with the pause between two tasks.
_LONG_S = 0.25
# A worker that takes this factor longer than the others is slow.
_SLOW_FACTOR = 2.0
# A task is overdue after this factor times the expected time plus these seconds.
_COPY_FACTOR, _COPY_S = 3.0, 0.1

W = TypeVar("W", bound=Hashable)


class Pace(Generic[W]):
    """Seconds that workers take for one evaluation.

    Args:
        seconds: What they have taken in earlier calls; None if unknown.

    Attributes:
        seconds: Seconds of one evaluation, in the median of the workers; None if unknown.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._of: dict[W, float] = {}

    def learn(self, worker: W, seconds: NDArray[np.float64]) -> None:
        """Note how long a worker has taken for some points."""
        if not len(seconds):
            return
        new, old = float(seconds.mean()), self._of.get(worker)
        self._of[worker] = new if old is None else old + _NEWEST * (new - old)
        times = sorted(self._of.values())
        self.seconds = times[(len(times) - 1) // 2]

    def forget(self, worker: W) -> None:
        """Forget a worker that has ended."""
        self._of.pop(worker, None)

    def fastest_first(self, workers: Iterable[W]) -> list[W]:
        """The workers in the order of their speed."""
        return sorted(workers, key=lambda worker: self._of.get(worker, 0.0))

    def task(self, worker: W, n_left: int, n_workers: int) -> tuple[int, float]:
        """Number of points in a worker's next task, and the seconds after which it begins no further one.

        Args:
            worker: The worker.
            n_left: Number of points that no worker has.
            n_workers: Number of workers.
        """
        seconds = self._of.get(worker, self.seconds)
        return task_size(n_left, n_workers, seconds), _BUDGET_S

    def enough(self, n_workers: int) -> int:
        """Number of points with which all workers have full tasks; the size of tasks does not depend on more."""
        return 3 * n_workers * (1 if self.seconds is None else int(_TASK_S / max(self.seconds, 1e-6)) + 1)

    def is_too_slow(self, worker: W, n_left: int, n_workers: int) -> bool:
        """Whether the others finish everything before a slow worker would have evaluated one point."""
        own, others = self._of.get(worker), self.seconds
        if own is None or others is None or own < _SLOW_FACTOR * others:
            return False
        return own > others * (n_left / max(1, n_workers - 1) + 1)

    def has_time_for_more(self, worker: W, n_in_hand: int, n_left: int, n_workers: int) -> bool:
        """Whether a worker that has a task should get the next one already.

        It should not if it would finish that one after the others have finished everything, nor if its evaluations are
        long.
        """
        own, others = self._of.get(worker), self.seconds
        if own is None or others is None or own > _LONG_S:
            return False
        n = n_in_hand + task_size(n_left, n_workers, own)
        return own * n * n_workers < others * n_left

    def is_overdue(self, n_points: int, for_s: float) -> bool:
        """Whether a task has taken much longer than it should."""
        return self.seconds is not None and for_s > _COPY_FACTOR * self.seconds * n_points + _COPY_S


def task_size(n_left: int, n_workers: int, seconds: float | None) -> int:
    """Number of points for the next task.

    Guided self-scheduling: tasks become smaller towards the end, so that all workers finish at the same time.

    Args:
        n_left: Number of points that no worker has.
        n_workers: Number of workers.
        seconds: Seconds that the worker takes for one point; None if unknown, which may be an hour.

    >>> [task_size(n, 2, 0.001) for n in (10_000, 40, 3)]
    [50, 10, 1]
    """
    if seconds is None:
        return 1
    seconds = max(seconds, 1e-7)
    least = min(ceil(_LEAST_S / seconds), ceil(n_left / n_workers))
    return max(1, least, min(ceil(_TASK_S / seconds), ceil(n_left / (2 * n_workers))))
