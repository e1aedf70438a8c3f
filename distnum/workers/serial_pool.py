"""The pool of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.machine import single_threaded_blas
from distnum.workers.pool import BatchAt, Closing, Gathered, KeptSlices
from distnum.workers.tiles import Shard, all_tiles
from distnum.workers.work import Objective
from distnum.workers.worker import Worker

__all__ = ["SerialPool", "first_part"]


# Work is handed out in parts that take about so long: no more is lost with a worker.
_PART_S = 2.0

# Where it is not known how long work takes, a first part of it is this share.
_FIRST_SHARE = 1 / 16


def first_part(shard: Shard, costs: NDArray[np.float64], gradient_s: float | None, speed: float = 1.0) -> int:
    """How many of a shard's tiles to hand out at once.

    Args:
        shard: the tiles.
        costs: of all tiles, in shares of the whole gradient's.
        gradient_s: seconds of a whole gradient on one worker; None if that is not known.
        speed: of the worker beside the others.
    """
    shares = costs[shard]
    total = float(shares.sum())
    most = total * _FIRST_SHARE if gradient_s is None else _PART_S * speed / max(gradient_s, 1e-300)
    if total <= 1.5 * most:
        return len(shard)
    return max(1, int(np.searchsorted(np.cumsum(shares), most, side="right")))


class SerialPool(Closing):
    """Computes in this process; pickles nothing and starts nothing."""

    n_workers = 1

    def __init__(self, objective: Objective, batch_at: BatchAt, n_threads: int = 1) -> None:
        self._objective = objective
        self._worker = Worker(objective, batch_at, n_threads)
        self._costs: NDArray[np.float64] | None = None
        self._gradient_s: float | None = None
        self._turn = 0
        self.n_threads = n_threads

    def plan(self, costs: NDArray[np.float64]) -> None:
        self._costs = costs / max(float(costs.sum()), 1e-300)

    def gradient(
        self,
        step: int,
        params: Array,
        meanwhile: Callable[[], None] = lambda: None,
        kept: KeptSlices | None = None,
    ) -> Gathered:
        objective, costs = self._objective, self._costs
        assert costs is not None
        meanwhile()
        self._turn += 1
        grad = np.empty_like(params)
        left, loss = all_tiles(objective.tiles), None
        if kept is not None:
            there, loss = kept.recall(step, params, grad)
            left = np.setdiff1d(left, there)
        answers = []
        with single_threaded_blas():
            for part, more in self._parts(left, costs, kept is not None):
                one = self._worker.grad_slice(self._turn, step, params, part, grad, loss is None, more)
                answers.append((part, one))
                loss = one.loss if loss is None else loss
                if kept is not None:
                    kept.finished(part, grad, loss)
        assert loss is not None
        compute_s = sum(one.compute_s for _, one in answers)
        share = sum(float(costs[part].sum()) for part, _ in answers)
        if share > 0:
            self._gradient_s = compute_s / share
        return Gathered(grad, loss, answers[0][1].costs if answers else None, compute_s, compute_s, answers)

    def _parts(self, left: Shard, costs: NDArray[np.float64], cut: bool) -> Iterator[tuple[Shard, bool]]:
        """The parts of a shard in turn, and whether more will come; all at once where nothing is kept of them."""
        began, n_done = perf_counter(), 0
        gradient_s = self._gradient_s
        while n_done < len(left):
            rest = left[n_done:]
            n = first_part(rest, costs, gradient_s) if cut else len(rest)
            yield rest[:n], n < len(rest)
            n_done += n
            share = float(costs[left[:n_done]].sum())
            gradient_s = (perf_counter() - began) / share if share > 0 else None

    def close(self) -> None:
        pass
