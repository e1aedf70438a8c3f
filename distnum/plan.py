"""The plan of a step: tiles of parameter indices, and a shard of tiles for each worker.

A *tile* is a fixed range of parameter indices. Its boundaries depend on the objective
alone, so a tile's slice of the gradient is the same bits wherever it is computed. A
*shard* is the set of tiles one worker gets for one step. Gathering puts slices side by
side and never adds them, so no order of summation depends on the workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shard", "Tiles", "assemble", "balance", "even_tiles", "indices_of", "make_shards", "shard_size"]

Tiles: TypeAlias = NDArray[np.int64]
"""Boundaries: tile ``t`` is the indices ``tiles[t]`` to ``tiles[t + 1]``; shape ``(n_tiles + 1,)``."""

Shard: TypeAlias = NDArray[np.int64]
"""Numbers of tiles, ascending."""


def even_tiles(n_items: int, n_tiles: int) -> Tiles:
    """Boundaries that cut ``n_items`` into at most ``n_tiles`` ranges of nearly equal length."""
    n_tiles = max(1, min(n_items, n_tiles))
    return np.linspace(0, n_items, n_tiles + 1).round().astype(np.int64)


def make_shards(costs: NDArray[np.floating], n_shards: int) -> list[Shard]:
    """Give every tile to one of ``n_shards`` shards, so that their costs are nearly equal.

    The costliest tile goes first, each to the shard that has least so far (R. Graham,
    "Bounds on multiprocessing timing anomalies", 1969: at most a third above the best).
    Ties go by number, so the result is a pure function of the arguments.

    Args:
        costs: of the tiles, shape ``(n_tiles,)``, any unit, not negative.
        n_shards: how many to make; some may be left empty.

    Returns:
        the shards; every tile is in exactly one.

    >>> [shard.tolist() for shard in make_shards(np.array([5.0, 1, 1, 2]), 2)]
    [[0], [1, 2, 3]]
    """
    chosen: list[list[int]] = [[] for _ in range(n_shards)]
    loads = [(0.0, 0, shard) for shard in range(n_shards)]
    for tile in np.argsort(-costs, kind="stable").tolist():
        load, n_tiles, shard = loads[0]
        chosen[shard].append(tile)
        # Among equal loads the one with fewest tiles, so that tiles that cost nothing spread too.
        heapq.heapreplace(loads, (load + float(costs[tile]), n_tiles + 1, shard))
    return [np.array(sorted(tiles), dtype=np.int64) for tiles in chosen]


def balance(costs: NDArray[np.floating], shards: Sequence[Shard]) -> float:
    """The cost of the busiest shard over the mean cost: 1 is perfect."""
    loads = np.array([costs[shard].sum() for shard in shards])
    mean = loads.mean()
    return float(loads.max() / mean) if mean > 0 else 1.0


def shard_size(tiles: Tiles, shard: Shard) -> int:
    """How many parameter indices a shard has."""
    return int((tiles[shard + 1] - tiles[shard]).sum())


def indices_of(tiles: Tiles, shard: Shard) -> NDArray[np.int64]:
    """The indices in a shard, its tiles one after the other.

    >>> indices_of(np.array([0, 3, 5, 9]), np.array([0, 2])).tolist()
    [0, 1, 2, 5, 6, 7, 8]
    """
    sizes = tiles[shard + 1] - tiles[shard]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(tiles[shard] - before, sizes)


def assemble(gradient: NDArray[np.floating], tiles: Tiles, shard: Shard, grad_slice: NDArray[np.floating]) -> None:
    """Put a shard's slice, its tiles one after the other, into the whole gradient."""
    if grad_slice.shape != (shard_size(tiles, shard),):
        raise ValueError(f"slice has shape {grad_slice.shape}; its shard has {shard_size(tiles, shard)} indices")
    if len(shard) == len(tiles) - 1:
        gradient[:] = grad_slice
    else:
        gradient[indices_of(tiles, shard)] = grad_slice
