"""What a pool is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.workers.tiles import Shard

__all__ = ["BatchAt", "Closing", "Gathered", "GradSlice", "KeptSlices", "Pool"]

BatchAt = Callable[[int], Any]


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
