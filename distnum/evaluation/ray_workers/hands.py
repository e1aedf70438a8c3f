"""What workers have in hand in one call: the task that each computes, and the one that it begins after that."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from distnum.workers.ray_pool.channel import Call, RayWorker
from distnum.workers.ray_pool.roster import Roster

__all__ = ["Hands", "Taking"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Taking:
    """The task of a worker that receives the function. It has no points."""

    turn: int
    numbers: Numbers = field(default_factory=lambda: np.empty(0, np.int64))


class Hands:
    """The tasks that workers have.

    Args:
        roster: The workers.
        turn: Number of the call. Workers may still have tasks of earlier ones.
    """

    def __init__(self, roster: Roster, turn: int) -> None:
        self._roster = roster
        self._turn = turn

    @property
    def busy(self) -> list[RayWorker]:
        """Workers with a task, also one of an earlier call."""
        return [worker for worker in self._roster.working if worker.call is not None]

    @property
    def ours(self) -> list[RayWorker]:
        """Workers with a task of this call."""
        turn = self._turn
        return [worker for worker in self._roster.working if worker.call is not None and worker.call.task.turn == turn]

    @property
    def evaluating(self) -> list[tuple[RayWorker, Call]]:
        """Workers with points of this call, and the task that they compute."""
        return [
            (worker, worker.call) for worker in self.ours if worker.call is not None and len(worker.call.task.numbers)
        ]

    @property
    def without_next(self) -> list[RayWorker]:
        """Workers with points of this call, and no task to begin after those."""
        return [worker for worker, _ in self.evaluating if worker.ahead is None]

    @property
    def n_taking(self) -> int:
        """Number of workers that receive the function."""
        return len(self.ours) - len(self.evaluating)

    @property
    def tasks(self) -> list[tuple[Numbers, float]]:
        """The points of each worker, and the seconds since it has begun the first of them."""
        now = perf_counter()
        return [(points_in_hand(worker), now - call.sent) for worker, call in self.evaluating]


def points_in_hand(worker: RayWorker) -> Numbers:
    """Points of both tasks of a worker."""
    assert worker.call is not None
    numbers: Numbers = worker.call.task.numbers
    return numbers if worker.ahead is None else np.concatenate([numbers, worker.ahead.task.numbers])
