"""Tiles and shards: every index once, whatever the costs and the number of shards."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from distnum.workers.tiles import balance, even_tiles, make_shards, positions_of


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
@example([5e-324], 2)  # whose mean is zero
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
def test_the_places_of_all_shards_are_all_places(n_params: int, n_tiles: int, n_shards: int) -> None:
    tiles = even_tiles(n_params, n_tiles)
    shards = make_shards(np.random.default_rng(1).random(len(tiles) - 1), n_shards)
    everywhere = np.arange(n_params)
    for order in (None, np.random.default_rng(2).permutation(n_params)):
        found = np.concatenate([everywhere[positions_of(tiles, shard, order)] for shard in shards])
        np.testing.assert_array_equal(np.sort(found), everywhere)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 70))
def test_every_tile_of_every_group_is_in_one_shard(costs: list[float], n_groups: int, n_shards: int) -> None:
    groups = np.sort(np.random.default_rng(n_groups).integers(0, n_groups, len(costs)))
    shards = make_shards(np.array(costs), n_shards, groups)
    assert len(shards) == n_shards
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(costs)))


def test_groups_stay_together_and_shards_are_balanced() -> None:
    generator = np.random.default_rng(0)
    costs, groups = generator.exponential(size=600), np.repeat(np.arange(6), 100)
    for n_shards in (2, 3, 8, 16):
        shards = make_shards(costs, n_shards, groups)
        assert balance(costs, shards) < 1.06
        pieces = sum(len(np.unique(groups[shard])) for shard in shards)
        assert pieces <= 6 + n_shards - 1


def test_groups_that_fit_are_not_split_unless_they_are_small() -> None:
    costs, groups = np.repeat([12.0, 11.9, 2.3, 2.2], 10), np.repeat(np.arange(4), 10)
    first, second = make_shards(costs, 2, groups)
    assert not set(groups[first].tolist()) & set(groups[second].tolist())
    assert balance(costs, [first, second]) < 1.03
    # To prepare the smallest twice takes less than one of them would wait for the other.
    costs, groups = np.append(costs, np.full(10, 0.5)), np.append(groups, np.full(10, 4))
    shards = make_shards(costs, 2, groups)
    assert set(groups[shards[0]].tolist()) & set(groups[shards[1]].tolist()) == {4}
    assert balance(costs, shards) < 1.005
