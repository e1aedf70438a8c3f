"""Where the gradient is computed: what a pool is, what each worker does, and the pool of this process.

A pool is made for one objective and one source of batches. ``plan`` tells it what the tiles
of the next gradient cost, ``gradient`` computes it. The pool of Ray actors is in
``ray_pool.py``; both run the same ``Worker``, so they give the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter, process_time
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.blas import single_threaded_blas
from distnum.memory import keep_freed_memory
from distnum.objectives import Objective, Point
from distnum.plan import Shard, all_tiles
from distnum.shared import Others

__all__ = ["BatchAt", "Closing", "Gathered", "GradSlice", "KeptSlices", "Pool", "SerialPool", "Worker", "first_part"]

Array = NDArray[np.floating]
BatchAt = Callable[[int], Any]

# Work is handed out in parts that take about so long: no more is lost with a worker.
_PART_S = 2.0
# Where it is not known how long work takes, a first part of it is this share.
_FIRST_SHARE = 1 / 16


@dataclass(frozen=True)
class GradSlice:
    """One worker's answer: the gradient at the indices of a shard.

    Attributes:
        values: the partial derivatives, the shard's tiles one after the other; None where they have
            been put in place.
        loss: the loss at the point itself; None where it was not asked for.
        costs: of all tiles at the point, shape ``(n_tiles,)``; None where they were not asked for.
        compute_s: seconds that the worker computed.
        cpu_s: seconds of that in which a core was busy, over all threads; the others were waited.
        group_s: seconds of that for each group of tiles; None where the objective has no groups.
    """

    values: Array | None
    loss: float | None
    costs: NDArray[np.float64] | None
    compute_s: float
    cpu_s: float
    group_s: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Gathered:
    """A whole gradient, and what is known of how it came about.

    Attributes:
        grad: shape ``(n_params,)``.
        loss: at the point itself.
        costs: of the tiles at the point, shape ``(n_tiles,)``; None if all was there already.
        compute_s: seconds that the busiest worker computed.
        mean_compute_s: the same over all workers.
        answers: each with the shard that it is of.
        broadcast_s, dispatch_s: seconds in which the driver laid out the parameters, and asked
            each worker for its shard.
    """

    grad: Array
    loss: float
    costs: NDArray[np.float64] | None
    compute_s: float
    mean_compute_s: float
    answers: list[tuple[Shard, GradSlice]]
    broadcast_s: float = 0.0
    dispatch_s: float = 0.0


class KeptSlices(Protocol):
    """Keeps what is finished of a gradient that takes long."""

    def recall(self, step: int, params: Array, grad: Array) -> tuple[Shard, float | None]:
        """Put into ``grad`` what was kept of this step; returns which tiles that was, and the loss if it is known."""
        ...

    def finished(self, shard: Shard, grad: Array, loss: float | None) -> None:
        """A shard's part of ``grad`` is finished."""
        ...


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
        others: Others | None = None,
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


class Pool(Protocol):
    """Where gradients are computed."""

    @property
    def n_workers(self) -> int:
        """How many there are now."""
        ...

    @property
    def n_threads(self) -> int:
        """Threads of each worker."""
        ...

    def plan(self, costs: NDArray[np.float64]) -> None:
        """Decide who computes what of the next gradient; ``costs`` are those of its tiles, in any unit."""
        ...

    def gradient(
        self,
        step: int,
        params: Array,
        meanwhile: Callable[[], None] = lambda: None,
        kept: KeptSlices | None = None,
    ) -> Gathered:
        """The gradient at a step's batch; ``plan`` comes before.

        ``meanwhile`` is called once, where possible while the workers compute.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing(ABC):
    """Closes where a ``with`` ends."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
