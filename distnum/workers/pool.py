"""The interface of a pool: one call computes all answers of a step.

``SerialPool`` computes in this process, ``RayPool`` on Ray actors. Both run the same ``Worker``,
so they give the same bits.
"""

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

__all__ = ["BatchAt", "Closing", "Gathered", "KeptSlices", "Pool", "Reply", "Timings"]

BatchAt = Callable[..., Any]
"""Returns the batch of a step. Called with the step and, if one was set by ``RayPool.use``, the variant."""


@dataclass(frozen=True)
class Reply:
    """A worker's reply to one task.

    Attributes:
        answers: Answers of the shard's tiles, one after the other; None if they were written in place.
        value: Value of the function at the point; None if the task did not ask for it.
        costs: Costs of all tiles at the point, shape ``(n_tiles,)``; None if the task did not ask for them.
        compute_s: Seconds of computing.
        cpu_s: CPU seconds of that, summed over all threads.
        group_s: Seconds of computing for each group of tiles; None if the work has no groups.
    """

    answers: Array | None
    value: Any
    costs: NDArray[np.float64] | None
    compute_s: float
    cpu_s: float
    group_s: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Timings:
    """Where the time of one ``Pool.compute`` went.

    Attributes:
        broadcast_s: Seconds in which the driver makes the parameters available to the workers.
        dispatch_s: Seconds in which the driver sends the first task of each worker.
        compute_s: Seconds that the busiest worker computes.
        mean_compute_s: Seconds that a worker computes on average.
        busy: Fraction of the computing time in which the workers' cores are busy, not waiting.
    """

    broadcast_s: float = 0.0
    dispatch_s: float = 0.0
    compute_s: float = 0.0
    mean_compute_s: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True)
class Gathered:
    """All answers of one step.

    Attributes:
        answers: Shape ``(n_indices, *answer_shape)``.
        value: Value of the function at the parameters themselves.
        costs: Costs of the tiles, shape ``(n_tiles,)``; None if nothing had to be computed.
        replies: Every reply, with the worker and the shard that it belongs to.
        timings: Where the time went.
        n_evaluations: Number of evaluations; None if that is the same for every step.
        n_unsettled: Number of answers that are doubtful; None if that is not judged.
        failed: Indices without an answer, whose parameters shall keep their values; None if there are none.
    """

    answers: Array
    value: Any
    costs: NDArray[np.float64] | None
    replies: list[tuple[Any, Shard, Reply]]
    timings: Timings
    n_evaluations: int | None = None
    n_unsettled: int | None = None
    failed: NDArray[np.int64] | None = None


class KeptSlices(Protocol):
    """Keeps finished slices of a long step, so that a crash of the driver does not lose them."""

    def recall(self, step: int, params: Array, answers: Array) -> tuple[Shard, Any]:
        """Write the kept slices of this step into ``answers``; return their tiles, and the value if it is known."""
        ...

    def finished(self, shard: Shard, answers: Array, value: Any) -> None:
        """Called when a shard's slice of ``answers`` is finished."""
        ...


class Pool(Protocol):
    """Computes work on one or more workers."""

    @property
    def n_workers(self) -> int:
        """Current number of workers."""
        ...

    @property
    def n_threads(self) -> int:
        """Threads of each worker."""
        ...

    def compute(self, step: int, params: Array, kept: KeptSlices | None = None) -> Gathered:
        """Compute all answers at ``params`` and the batch of a step."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing(ABC):
    """A context manager that calls ``close`` at its end."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
