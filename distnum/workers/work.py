"""What a pool computes: the protocol of work that can be cut into tiles.

A pool does not know what it computes. It is given *work*, which defines one answer for each index,
and computes it at given parameters and a batch. All answers of one work have the same shape. A
partial derivative is one number, shape ``()``; a column of a Jacobian has the shape of the
function's value. Indices are grouped into tiles (see ``tiles.py``), and workers write the answers
of their tiles side by side into one array, so nothing depends on which worker computes a tile.

Work that needs several rounds, such as a search for a good step size, is a loop over
``Pool.compute``: the driver looks at all answers of a round and asks for the next one. Decision 21
has the design of such rounds, which nothing uses yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.workers.tiles import Shard, Tiles

__all__ = ["Peers", "Point", "SharesBlocks", "Work"]


class Point(Protocol):
    """Work at some parameters and a batch."""

    @property
    def value(self) -> Any:
        """Value of the function at the parameters themselves; the loss, for a gradient."""
        ...

    @property
    def costs(self) -> NDArray[np.float64]:
        """Cost of each tile, in any unit, shape ``(n_tiles,)``."""
        ...

    @property
    def group_s(self) -> NDArray[np.float64] | None:
        """Seconds spent so far on the tiles of each group, shape ``(n_groups,)``; None without groups."""
        ...

    def compute(self, shard: Shard, answers: Array) -> None:
        """Write the answers of a shard's tiles into ``answers``, shape ``(n_indices, *answer_shape)``."""
        ...


class Work(Protocol):
    """A computation with one answer for every index, cut into tiles."""

    @property
    def n_params(self) -> int:
        """Length of the array of parameters."""
        ...

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the answer at one index."""
        ...

    @property
    def tiles(self) -> Tiles:
        """Boundaries of the tiles in ``order``, shape ``(n_tiles + 1,)``; the last one is the number of indices."""
        ...

    @property
    def order(self) -> NDArray[np.int64] | None:
        """Indices in the order of the tiles, shape ``(n_indices,)``; None if the tiles are in index order."""
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Group of each tile, ascending, shape ``(n_tiles,)``; None for one group. Its tiles share a preparation."""
        ...

    @property
    def thread_safe(self) -> bool:
        """Whether a point may use several threads; it then never changes the parameters."""
        ...

    def expected_costs(self, batch: Any, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Expected cost of each tile, in any unit, shape ``(n_tiles,)``, without evaluating anything.

        Args:
            batch: The batch that will be used.
            before: Costs of the tiles at an earlier point, if known.
        """
        ...

    def at(self, params: Array, batch: Any, n_threads: int = 1) -> Point:
        """This work at ``params``, shape ``(n_params,)``, and a batch."""
        ...


class Peers(Protocol):
    """One worker's view of the workers on its machine that compute the same turn (call of ``Pool.compute``)."""

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Memory that all of them share."""
        ...

    def fits(self, n_blocks: int, n_bytes: int) -> bool:
        """Whether the memory was made for this number of blocks and bytes."""
        ...

    def compute(self, n_blocks: int, compute: Callable[[int], None]) -> None:
        """Call ``compute`` for the blocks that no peer computes, and wait for the others.

        Blocks that do not arrive in time are computed here too.
        """
        ...


@runtime_checkable
class SharesBlocks(Protocol):
    """Work with a part that the workers of one machine can compute once for all, block by block.

    A pool that offers no shared memory uses ``Work.at``; the bits are the same.
    """

    def shared_blocks(self, batch: Any, dtype: DTypeLike) -> tuple[int, int]:
        """Number of blocks for a batch, and bytes of shared memory for all of them."""
        ...

    def at_with_peers(self, params: Array, batch: Any, n_threads: int, peers: Peers) -> Point:
        """As ``Work.at``, sharing blocks with other workers."""
        ...
