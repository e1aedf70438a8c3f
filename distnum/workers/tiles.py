"""The plan of a step: tiles of parameter indices, and a shard of tiles for each worker.

A *tile* is a fixed set of parameter indices, a range of them in the objective's own order. It
depends on the objective alone, so a tile's slice of the gradient is the same bits wherever it
is computed. Tiles for which a worker prepares the same things form a *group*. A *shard* is the
set of tiles one worker gets for one step. Gathering puts slices side by side and never adds
them, so no order of summation depends on the workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shard", "Tiles", "all_tiles", "balance", "even_tiles", "indices_of", "make_shards", "positions_of"]


Tiles: TypeAlias = NDArray[np.int64]
"""Boundaries: tile ``t`` is the places ``tiles[t]`` to ``tiles[t + 1]`` in the order; shape ``(n_tiles + 1,)``."""

# How much over the mean a shard may get, in parts of it, before a group is split; and no more than
# this part of the group, which is about what it takes to prepare it once more.
_OVERFULL, _TO_PREPARE = 0.02, 0.1

Shard: TypeAlias = NDArray[np.int64]
"""Numbers of tiles, ascending."""


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
    """Give every tile to one of ``n_shards`` shards, so that all take nearly as long and groups stay together.

    The costliest group goes first: to the shard with most room, if it has room for all of it,
    else to as few shards as have room together. Of its tiles the costliest goes first, each to
    the one of these shards that still misses most (for one group: R. Graham, "Bounds on
    multiprocessing timing anomalies", 1969: at most a third above the best). Ties go by number,
    so the result is a pure function of the arguments.

    Args:
        costs: of the tiles, shape ``(n_tiles,)``, any unit, not negative.
        n_shards: how many to make; some may be left empty.
        groups: the number of the group that each tile is in, ascending; by default all are in one.
        speeds: of who computes each shard, beside each other, shape ``(n_shards,)``; by default equal.

    Returns:
        the shards; every tile is in exactly one.

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
        # What each shard is to get of the group: all the room it has; the last one the rest.
        portions = []
        left = cost
        for shard in by_room:
            last = mean > 0 and left <= room[shard] + min(_OVERFULL * mean, _TO_PREPARE * cost)
            portions.append((left if last else room[shard], shard))
            left -= room[shard]
            if last:
                break
        # Among equal ones the shard with fewest tiles, so that tiles that cost nothing spread too.
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
    """The places in the order that a shard has, its tiles one after the other.

    >>> indices_of(np.array([0, 3, 5, 9]), np.array([0, 2])).tolist()
    [0, 1, 2, 5, 6, 7, 8]
    """
    sizes = tiles[shard + 1] - tiles[shard]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(tiles[shard] - before, sizes)


def positions_of(tiles: Tiles, shard: Shard, order: NDArray[np.integer] | None) -> Any:
    """Where in the gradient the partial derivatives of a shard belong: parameter indices, or a slice of all.

    Args:
        tiles: boundaries.
        shard: whose tiles come one after the other.
        order: the parameter indices in the order of the tiles; None if it is their own.
    """
    if len(shard) == len(tiles) - 1:
        return slice(None) if order is None else order
    indices = indices_of(tiles, shard)
    return indices if order is None else order[indices]


def all_tiles(tiles: Tiles) -> Shard:
    """The shard that has every tile."""
    return np.arange(len(tiles) - 1)
