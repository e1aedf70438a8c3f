"""The plan of a step: costs from the batch and from earlier steps, shards that stay while they are balanced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distnum.workers.planner import Planner, first_part
from distnum.workers.pool import Gathered, Reply, Timings

N_TILES = 40
ALL = np.arange(N_TILES)


class UnevenWork:
    """Work in two groups whose tiles cost what the batch says."""

    n_params = N_TILES
    answer_shape = ()
    tiles = np.arange(N_TILES + 1)
    order = None
    groups = np.repeat([0, 1], N_TILES // 2)
    thread_safe = True

    def expected_costs(self, batch: Any, before: np.ndarray | None = None) -> np.ndarray:
        return np.full(N_TILES, float(batch))

    def at(self, params: np.ndarray, batch: Any, n_threads: int = 1) -> Any:
        raise NotImplementedError


def planner(drawn: list[int]) -> Planner:
    def batch_at(step: int) -> int:
        drawn.append(step)
        return step

    return Planner(UnevenWork(), batch_at)


def gathered(costs: np.ndarray, seconds: dict[str, tuple[np.ndarray, list[float]]]) -> Gathered:
    """A step of these workers, each with its shard and the seconds of each group."""
    replies = [
        (worker, shard, Reply(None, None, None, sum(of_groups), 0.0, np.array(of_groups)))
        for worker, (shard, of_groups) in seconds.items()
    ]
    return Gathered(np.zeros(N_TILES), 0.0, costs, replies, Timings())


def test_every_tile_is_planned_once_for_any_number_of_workers() -> None:
    for n_workers in (1, 2, 7):
        shards = planner([]).shards(1, list(range(n_workers)), np.ones(n_workers))
        assert sorted(np.concatenate(shards).tolist()) == ALL.tolist()


def test_a_planned_step_is_not_planned_again() -> None:
    drawn: list[int] = []
    plan = planner(drawn)
    plan.plan(2, ["a", "b"], np.ones(2))
    plan.shards(2, ["a", "b"], np.ones(2))
    assert drawn == [2]


def test_few_workers_are_planned_from_earlier_costs_without_drawing_the_batch() -> None:
    drawn: list[int] = []
    plan = planner(drawn)
    shards = plan.shards(1, ["a", "b"], np.ones(2))
    plan.learn(gathered(np.ones(N_TILES), {"a": (shards[0], [1.0, 0.0]), "b": (shards[1], [0.0, 1.0])}), plan.costs)
    plan.shards(2, ["a", "b"], np.ones(2))
    assert drawn == [1]
    plan.shards(3, list("abcde"), np.ones(5))
    assert drawn == [1, 3]


def test_seconds_of_a_group_change_the_forecast() -> None:
    plan = planner([])
    shards = plan.shards(1, ["a"], np.ones(1))
    plan.learn(gathered(np.ones(N_TILES), {"a": (shards[0], [3.0, 1.0])}), plan.costs)
    plan.shards(2, ["a"], np.ones(1))
    assert plan.costs[0] == pytest.approx(3 * plan.costs[-1])


def test_shards_stay_with_their_workers_while_they_are_balanced() -> None:
    plan = planner([])
    before = plan.shards(1, ["a", "b"], np.ones(2))
    assert plan.shards(2, ["a", "b"], np.ones(2)) is before
    assert [len(shard) for shard in plan.shards(3, ["a", "b"], np.array([1.0, 3.0]))] == [10, 30]


def test_speeds_are_relative_to_the_mean() -> None:
    plan = planner([])
    a, b = plan.shards(1, ["a", "b"], np.ones(2))
    step = gathered(np.ones(N_TILES), {"a": (a, [1.0, 0.0]), "b": (b, [0.0, 3.0])})
    assert plan.learn(step, plan.costs) == pytest.approx({"a": 2.0, "b": 2 / 3})
    alone = gathered(np.ones(N_TILES), {"a": (ALL, [1.0, 1.0])})
    assert plan.learn(alone, plan.costs) == {}


def test_a_first_part_is_small_while_times_are_unknown() -> None:
    costs = np.full(128, 1 / 128)  # exact in binary
    assert first_part(np.arange(128), costs, None) == 8
    assert first_part(np.arange(128), costs, turn_s=1.0) == 128
    assert first_part(np.arange(128), costs, turn_s=16.0) == 16
    assert first_part(np.arange(128), costs, turn_s=16.0, speed=2.0) == 32
