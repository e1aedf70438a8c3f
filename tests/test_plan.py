"""Tiles and shards: every index once, whatever the costs and the number of shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum.plan import assemble, balance, even_tiles, make_shards


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_even_tiles_cover_everything_once(n_items: int, n_tiles: int) -> None:
    tiles = even_tiles(n_items, n_tiles)
    sizes = np.diff(tiles)
    assert tiles[0] == 0
    assert tiles[-1] == n_items
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) == min(n_items, n_tiles)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.integers(1, 70))
def test_every_tile_is_in_one_shard(costs: list[float], n_shards: int) -> None:
    shards = make_shards(np.array(costs), n_shards)
    assert len(shards) == n_shards
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(costs)))


def test_shards_are_a_pure_function_of_the_costs() -> None:
    costs = np.random.default_rng(0).integers(0, 5, 300).astype(float)
    first, again = make_shards(costs, 7), make_shards(costs.copy(), 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_tiles_that_cost_nothing_are_spread() -> None:
    assert [len(shard) for shard in make_shards(np.zeros(12), 4)] == [3, 3, 3, 3]


def test_balance_of_uneven_costs() -> None:
    costs = np.random.default_rng(0).exponential(size=400)
    assert balance(costs, make_shards(costs, 16)) < 1.05
    assert balance(costs, [np.arange(300), np.arange(300, 400)]) > 1.4


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_assembling_the_slices_gives_the_whole(n_params: int, n_tiles: int, n_shards: int) -> None:
    tiles = even_tiles(n_params, n_tiles)
    whole = np.random.default_rng(n_params).random(n_params)
    found = np.full(n_params, np.nan)
    for shard in make_shards(np.random.default_rng(1).random(len(tiles) - 1), n_shards):
        parts = [whole[tiles[t] : tiles[t + 1]] for t in shard.tolist()]
        assemble(found, tiles, shard, np.concatenate([*parts, np.empty(0)]))
    np.testing.assert_array_equal(found, whole)


def test_a_slice_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="slice has shape"):
        assemble(np.zeros(4), even_tiles(4, 2), np.array([0]), np.zeros(3))
