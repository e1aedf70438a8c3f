"""Tiles of indices, and a shard of tiles for each worker.

A *tile* is a fixed range of indices in the work's own order. It depends on the work alone, so its
answers have the same bits wherever they are computed. Tiles that need the same preparation form a
*group*. A *shard* is the set of tiles that one worker gets for one step. Gathering puts answers
side by side and never adds them, so no order of summation depends on the workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shard", "Tiles", "all_tiles", "balance", "even_tiles", "indices_of", "make_shards", "positions_of"]


Tiles: TypeAlias = NDArray[np.int64]
"""Boundaries: tile ``t`` is the range ``tiles[t]`` to ``tiles[t + 1]`` of the order; shape ``(n_tiles + 1,)``."""

# A group is split if its shard would exceed the mean by more than the first fraction of the mean, or
# the second fraction of the group: about the cost of preparing the group once more.
_OVERFULL, _TO_PREPARE = 0.02, 0.1

Shard: TypeAlias = NDArray[np.int64]
"""Numbers of tiles, in ascending order."""


def even_tiles(n_items: int, n_tiles: int) -> Tiles:
    """Boundaries that cut ``n_items`` into at most ``n_tiles`` ranges of nearly equal length."""
    n_tiles = max(1, min(n_items, n_tiles))
    return np.linspace(0, n_items, n_tiles + 1).round().astype(np.int64)


def make_shards(
    costs: NDArray[np.floating],
    n_shards: int,
    groups: NDArray[np.integer] | None = None,
    speeds: NDArray[np.floating] | None = None,
) -> list[Shard]:
    """Assign every tile to one of ``n_shards`` shards of similar time, keeping groups together.

    Groups are assigned in order of decreasing cost: to the shard with the most room if the group
    fits there, else to the fewest shards that have room together. The group's tiles follow in order
    of decreasing cost, each to the shard furthest below its target. For one group the slowest shard
    is at most a third above the optimum (R. Graham, "Bounds on multiprocessing timing anomalies",
    1969). Ties are broken by number, so the result is a pure function of the arguments.

    Args:
        costs: Cost of each tile, shape ``(n_tiles,)``, in any unit, not negative.
        n_shards: Number of shards; some may be empty.
        groups: Group of each tile, ascending; by default all tiles are in one group.
        speeds: Relative speed of each shard's worker, shape ``(n_shards,)``; by default equal.

    Returns:
        The shards; every tile is in exactly one.

    >>> [shard.tolist() for shard in make_shards(np.array([5.0, 1, 1, 2]), 2)]
    [[0], [1, 2, 3]]
    >>> [shard.tolist() for shard in make_shards(np.ones(4), 2, np.array([0, 0, 1, 1]))]
    [[0, 1], [2, 3]]
    >>> [shard.tolist() for shard in make_shards(np.ones(6), 2, speeds=np.array([1, 2]))]
    [[2, 4], [0, 1, 3, 5]]
    """
    groups = np.zeros(len(costs), np.int64) if groups is None else groups
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    group_costs = np.add.reduceat(costs, starts)
    stops = [*starts[1:].tolist(), len(costs)]
    mean = float(costs.sum()) / n_shards
    chosen: list[list[int]] = [[] for _ in range(n_shards)]
    room = [mean] * n_shards if speeds is None else (costs.sum() * speeds / np.sum(speeds)).tolist()
    for group in np.argsort(-group_costs, kind="stable").tolist():
        start, stop, cost = int(starts[group]), stops[group], float(group_costs[group])
        by_room = sorted(range(n_shards), key=lambda shard: (-room[shard], len(chosen[shard]), shard))
        # Target of each shard: all its room; the last one gets the rest of the group.
        portions = []
        left = cost
        for shard in by_room:
            last = mean > 0 and left <= room[shard] + min(_OVERFULL * mean, _TO_PREPARE * cost)
            portions.append((left if last else room[shard], shard))
            left -= room[shard]
            if last:
                break
        # Among equal shards the one with the fewest tiles, so that tiles without cost are spread too.
        heap = [(-portion, len(chosen[shard]), shard) for portion, shard in portions]
        heapq.heapify(heap)
        for tile in (start + np.argsort(-costs[start:stop], kind="stable")).tolist():
            missing, n_tiles, shard = heap[0]
            chosen[shard].append(tile)
            room[shard] -= float(costs[tile])
            heapq.heapreplace(heap, (missing + float(costs[tile]), n_tiles + 1, shard))
    return [np.array(sorted(tiles), dtype=np.int64) for tiles in chosen]


def balance(costs: NDArray[np.floating], shards: Sequence[Shard], speeds: NDArray[np.floating] | float = 1.0) -> float:
    """Time of the slowest shard relative to the mean, for workers with these speeds: 1 is perfect."""
    times = np.array([costs[shard].sum() for shard in shards]) / speeds
    mean = times.mean()
    return float(times.max() / mean) if mean > 0 else 1.0


def indices_of(tiles: Tiles, shard: Shard) -> NDArray[np.int64]:
    """Positions in the order of a shard's tiles, one tile after the other.

    >>> indices_of(np.array([0, 3, 5, 9]), np.array([0, 2])).tolist()
    [0, 1, 2, 5, 6, 7, 8]
    """
    sizes = tiles[shard + 1] - tiles[shard]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(tiles[shard] - before, sizes)


def positions_of(tiles: Tiles, shard: Shard, order: NDArray[np.integer] | None) -> Any:
    """Where the answers of a shard belong in the array of all answers: indices, or a slice if the shard is whole.

    Args:
        tiles: Boundaries of the tiles.
        shard: Tiles whose answers come one after the other.
        order: Indices in the order of the tiles; None if the tiles follow the indices.
    """
    if len(shard) == len(tiles) - 1:
        return slice(None) if order is None else order
    indices = indices_of(tiles, shard)
    return indices if order is None else order[indices]


def all_tiles(tiles: Tiles) -> Shard:
    """The shard of all tiles."""
    return np.arange(len(tiles) - 1)
