"""What a pool computes: a small protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.workers.ray_pool.shared_memory import Peers
from distnum.workers.tiles import Shard, Tiles, all_tiles

__all__ = ["Objective", "Point", "whole_gradient"]


class Point(Protocol):
    """An objective at some parameters and a batch."""

    @property
    def loss(self) -> float:
        """The loss at the point itself."""
        ...

    @property
    def costs(self) -> NDArray[np.float64]:
        """What each tile costs beside the others, shape ``(n_tiles,)``."""
        ...

    def grad_slice(self, shard: Shard, grad: Array) -> None:
        """Put the numerical gradient at the indices of a shard where it belongs in ``grad``, shape ``(n_params,)``."""
        ...

    @property
    def group_s(self) -> NDArray[np.float64] | None:
        """Seconds that each group's tiles have taken so far, shape ``(n_groups,)``; None without groups."""
        ...


class Objective(Protocol):
    """A loss to be differenced: which parameters, in which tiles, at what cost."""

    @property
    def n_params(self) -> int: ...

    @property
    def n_evaluations(self) -> int:
        """Losses evaluated for one gradient."""
        ...

    @property
    def tiles(self) -> Tiles:
        """Boundaries of the tiles in ``order``, shape ``(n_tiles + 1,)``."""
        ...

    @property
    def order(self) -> NDArray[np.int64] | None:
        """The parameter indices in the order of the tiles, shape ``(n_params,)``; None if it is their own."""
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """The group that each tile is in, ascending, shape ``(n_tiles,)``; None if all are in one."""
        ...

    @property
    def thread_safe(self) -> bool:
        """Whether it computes on threads where it is asked to."""
        ...

    def expected_costs(self, batch: Any, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """What each tile will cost beside the others, shape ``(n_tiles,)``, without evaluating anything.

        Args:
            batch: that will be asked for.
            before: what the tiles cost at the last point there was.
        """
        ...

    @property
    def shareable(self) -> Callable[[Any, DTypeLike], tuple[int, int]] | None:
        """Tells of a batch what workers of one machine can find together: how many blocks, of how many bytes in all.

        None if there is nothing of the kind.
        """
        ...

    def at(self, params: Array, batch: Any, n_threads: int = 1, others: Peers | None = None) -> Point:
        """The objective at ``params``, shape ``(n_params,)``, and a batch.

        If it is not ``thread_safe`` it takes no notice of ``n_threads``; ``others`` may have found
        already what it would find.
        """
        ...

    def param_name(self, index: int) -> str: ...


def whole_gradient(
    objective: Objective, params: Array, batch: Any = None, n_threads: int = 1, others: Peers | None = None
) -> Array:
    """The numerical gradient at ``params`` and a batch, computed here; shape ``(n_params,)``."""
    grad = np.empty_like(params)
    objective.at(params, batch, n_threads, others).grad_slice(all_tiles(objective.tiles), grad)
    return grad
