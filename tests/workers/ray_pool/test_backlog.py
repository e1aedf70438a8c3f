"""What an idle worker takes next: its own rest, tiles of lost workers, then tiles that others have not begun."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distnum.workers.ray_pool.backlog import Backlog


def backlog(n_tiles: int = 12) -> Backlog[str]:
    return Backlog(np.full(n_tiles, 1 / n_tiles))


def never(worker: str) -> bool:
    return False


def test_a_worker_takes_its_own_rest_first() -> None:
    tiles = backlog()
    tiles.set_rest("a", np.array([1, 2]))
    tiles.reopen(np.array([7]), 1, 1)
    shard, n_lost = tiles.next_for("a", never) or (None, None)
    assert (shard.tolist(), n_lost) == ([1, 2], 0)


def test_tiles_of_lost_workers_come_next_with_their_losses() -> None:
    tiles = backlog()
    tiles.set_rest("a", np.arange(6))
    tiles.reopen(np.array([7, 8]), 1, 2)
    shard, n_lost = tiles.next_for("b", never) or (None, None)
    assert (shard.tolist(), n_lost) == ([7, 8], 2)


def test_half_of_the_largest_rest_is_taken_or_all_of_it_if_its_worker_is_blocked() -> None:
    tiles = backlog()
    tiles.set_rest("a", np.arange(6))
    tiles.set_rest("b", np.arange(6, 8))
    shard, _ = tiles.next_for("c", never) or (None, None)
    assert shard.tolist() == [3, 4, 5]
    shard, _ = tiles.next_for("c", lambda worker: worker == "a") or (None, None)
    assert shard.tolist() == [0, 1, 2]


def test_finished_tiles_are_never_handed_out() -> None:
    tiles = backlog()
    tiles.reopen(np.arange(4), 2, 0)
    tiles.left[:] = False
    assert tiles.next_for("a", never) is None


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5))
def test_every_tile_is_handed_out_exactly_once_after_losses(n_tiles: int, n_parts: int, n_finished: int) -> None:
    tiles = backlog(n_tiles)
    tiles.set_rest("lost", np.arange(n_tiles))
    tiles.left[:n_finished] = False
    tiles.drop("lost", n_parts)
    taken: list[int] = []
    while (part := tiles.next_for("a", never)) is not None:
        taken += part[0].tolist()
    assert sorted(taken) == list(range(min(n_finished, n_tiles), n_tiles))
