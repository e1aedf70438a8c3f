"""One worker: computes the tiles of a task. The same code runs in this process and in Ray actors."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.machine import keep_freed_memory
from distnum.workers.pool import BatchAt, Reply
from distnum.workers.tiles import Shard
from distnum.workers.work import Peers, Point, SharesBlocks, Work

__all__ = ["Task", "Worker"]


@dataclass(frozen=True)
class Task:
    """A request for the answers of one shard.

    Attributes:
        turn: Number of the call of ``Pool.compute``.
        step: Step whose batch is used.
        shard: Tiles to compute.
        first: Whether the reply must hold the value of the function and the costs of all tiles.
        more: Whether another task of this turn will follow, so that the worker keeps its point.
        n_threads: Threads to compute with; the bits do not depend on it.
        variant: Passed to ``batch_at`` after the step, if not None.
    """

    turn: int
    step: int
    shard: Shard
    first: bool
    more: bool = False
    n_threads: int = 1
    variant: Any = None


class Worker:
    """Computes tasks of one work.

    Args:
        work: What to compute.
        batch_at: Returns the batch of a step.
    """

    def __init__(self, work: Work, batch_at: BatchAt) -> None:
        self._work = work
        self._batch_at = batch_at
        self._turn: int | None = None
        self._point: Point | None = None
        keep_freed_memory()

    def compute(self, task: Task, params: Array, answers: Array, peers: Peers | None = None) -> Reply:
        """Write the answers of a task's shard into ``answers``, shape ``(n_indices, *answer_shape)``.

        Args:
            task: The request.
            params: Parameters of the turn, shape ``(n_params,)``.
            answers: Array to write into.
            peers: Workers of this machine that compute the same turn; only for work that ``SharesBlocks``.
        """
        started, busy = perf_counter(), process_time()
        point = self._point if task.turn == self._turn else None
        if point is None:
            point = self._point_at(task, params, peers)
        before = None if point.group_s is None else point.group_s.copy()
        point.compute(task.shard, answers)
        group_s = None if point.group_s is None or before is None else point.group_s - before
        value, costs = (point.value, point.costs) if task.first else (None, None)
        self._turn, self._point = (task.turn, point) if task.more else (None, None)
        return Reply(None, value, costs, perf_counter() - started, process_time() - busy, group_s)

    def _point_at(self, task: Task, params: Array, peers: Peers | None) -> Point:
        if not params.flags.writeable and not self._work.thread_safe:
            params = params.copy()  # such work changes its parameters in place
        variant = () if task.variant is None else (task.variant,)
        batch = self._batch_at(task.step, *variant)
        if peers is not None and isinstance(self._work, SharesBlocks):
            return self._work.at_with_peers(params, batch, task.n_threads, peers)
        return self._work.at(params, batch, task.n_threads)

    def warm_up(self, params: Array, n_threads: int = 1) -> None:
        """Load or compile the code that tasks need, by computing some tiles of every group."""
        n_tiles = len(self._work.tiles) - 1
        shard = np.unique(np.linspace(0, n_tiles - 1, 64).astype(np.int64))
        answers = np.empty((int(self._work.tiles[-1]), *self._work.answer_shape), params.dtype)
        self.compute(Task(0, 1, shard, first=True, n_threads=n_threads), params, answers)
