"""The pool of this process: no Ray, no pickling, nothing to start."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np

from distnum.common.arrays import Array
from distnum.common.machine import single_threaded_blas
from distnum.workers.planner import Planner, first_part
from distnum.workers.pool import BatchAt, Closing, Gathered, KeptSlices, Timings
from distnum.workers.tiles import Shard, all_tiles
from distnum.workers.work import Work
from distnum.workers.worker import Task, Worker

__all__ = ["SerialPool"]


class SerialPool(Closing):
    """Computes in this process.

    Args:
        work: What to compute.
        batch_at: Returns the batch of a step.
        n_threads: Threads to compute with; the bits do not depend on it.
    """

    n_workers = 1

    def __init__(self, work: Work, batch_at: BatchAt, n_threads: int = 1) -> None:
        self._work = work
        self._worker = Worker(work, batch_at)
        self._planner = Planner(work, batch_at)
        self._turn_s: float | None = None
        self._turn = 0
        self.n_threads = n_threads

    def compute(self, step: int, params: Array, kept: KeptSlices | None = None) -> Gathered:
        """Compute all answers at ``params`` and the batch of a step."""
        work = self._work
        self._turn += 1
        answers = np.empty((int(work.tiles[-1]), *work.answer_shape), params.dtype)
        left, value = all_tiles(work.tiles), None
        if kept is not None:
            recalled, value = kept.recall(step, params, answers)
            left = np.setdiff1d(left, recalled)
            self._planner.plan(step, [self], np.ones(1))
        replies = []
        with single_threaded_blas():
            for part, more in self._parts(left, cut=kept is not None):
                task = Task(self._turn, step, part, value is None, more, self.n_threads)
                reply = self._worker.compute(task, params, answers)
                replies.append((self, part, reply))
                value = reply.value if value is None else value
                if kept is not None:
                    kept.finished(part, answers, value)
        compute_s = sum(reply.compute_s for _, _, reply in replies)
        busy = sum(reply.cpu_s for _, _, reply in replies) / max(compute_s * self.n_threads, 1e-300)
        timings = Timings(compute_s=compute_s, mean_compute_s=compute_s, busy=busy)
        gathered = Gathered(answers, value, replies[0][2].costs if replies else None, replies, timings)
        if kept is not None:
            self._learn(gathered)
        return gathered

    def _parts(self, left: Shard, cut: bool) -> Iterator[tuple[Shard, bool]]:
        """Parts of a shard in turn, and whether more will follow; without ``cut`` there is one part."""
        if not cut:
            yield left, False
            return
        began, n_done = perf_counter(), 0
        turn_s, costs = self._turn_s, self._planner.costs
        while n_done < len(left):
            rest = left[n_done:]
            n = first_part(rest, costs, turn_s)
            yield rest[:n], n < len(rest)
            n_done += n
            share = float(costs[left[:n_done]].sum())
            turn_s = (perf_counter() - began) / share if share > 0 else None

    def _learn(self, gathered: Gathered) -> None:
        share = sum(float(self._planner.costs[part].sum()) for _, part, _ in gathered.replies)
        if share > 0:
            self._turn_s = gathered.timings.compute_s / share
        self._planner.learn(gathered, self._planner.costs)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""
