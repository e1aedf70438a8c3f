"""Where the gradient is computed: what a pool is, what each worker does, and the pool of this process.

A pool is made for one objective and one source of batches. ``plan`` tells it what the tiles
of the next gradient cost, ``gradient`` computes it. The pool of Ray actors is in
``ray_pool.py``; both run the same ``Worker``, so they give the same bits.
"""

from __future__ import annotations

from time import perf_counter, process_time

import numpy as np

from distnum.common.arrays import Array
from distnum.common.machine import keep_freed_memory
from distnum.workers.pool import BatchAt, GradSlice
from distnum.workers.ray_pool.shared_memory import Peers
from distnum.workers.tiles import Shard
from distnum.workers.work import Objective, Point

__all__ = ["Worker"]


class Worker:
    """Computes slices of the gradient of one objective.

    Args:
        objective: what to difference.
        batch_at: gives the batch of a step.
        n_threads: that compute a slice; bits do not depend on it.
    """

    def __init__(self, objective: Objective, batch_at: BatchAt, n_threads: int = 1) -> None:
        self._objective = objective
        self._batch_at = batch_at
        self.n_threads = n_threads
        self._turn: int | None = None
        self._point: Point | None = None
        keep_freed_memory()

    def grad_slice(
        self,
        turn: int,
        step: int,
        params: Array,
        shard: Shard,
        grad: Array,
        first: bool,
        more: bool = False,
        others: Peers | None = None,
    ) -> GradSlice:
        """Put the slice of a shard at a step's batch in place.

        Args:
            turn: number of the gradient that it is a slice of.
            step, params: where that gradient is taken.
            shard: its tiles.
            grad: where the gradient is put together, shape ``(n_params,)``.
            first: whether to tell what is known of the whole, too.
            more: whether another slice of the same gradient will be asked for.
            others: who else is at this gradient.
        """
        started, busy = perf_counter(), process_time()
        point = self._point if turn == self._turn else None
        if point is None:
            if not params.flags.writeable and not self._objective.thread_safe:
                params = params.copy()  # a black box is differenced in place
            point = self._objective.at(params, self._batch_at(step), self.n_threads, others)
        before = None if point.group_s is None else point.group_s.copy()
        point.grad_slice(shard, grad)
        group_s = None if point.group_s is None or before is None else point.group_s - before
        loss, costs = (point.loss, point.costs) if first else (None, None)
        self._turn, self._point = (turn, point) if more else (None, None)
        return GradSlice(None, loss, costs, perf_counter() - started, process_time() - busy, group_s)

    def warm_up(self, params: Array) -> None:
        """Load, or compile, what slices need: some tiles of every group are computed and thrown away."""
        n_tiles = len(self._objective.tiles) - 1
        shard = np.unique(np.linspace(0, n_tiles - 1, 64).astype(np.int64))
        self.grad_slice(0, 1, params, shard, np.empty_like(params), first=True)
