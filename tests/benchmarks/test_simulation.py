"""The simulator of other designs, stragglers and failures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import Design, Misfortune, simulate_design
from distnum.scaling.simulation import System, simulate
from tests.scaling.measurements import EACH
from tests.scaling.test_simulation import known_system


@pytest.mark.parametrize("k", [2, 7, 100])
def test_without_design_and_misfortune_it_equals_the_library(k: int) -> None:
    system = System(1.0, 0.01, 0.05, 1e-3, 1e-3, 0.01, np.ones(500), node_s=0.02, answers_s=0.02, workers_per_node=4)
    np.testing.assert_allclose(simulate_design(system, k, seed=3), simulate(system, k, seed=3), rtol=1e-12)


def test_misfortune_costs_time_and_every_step_ends() -> None:
    calm = simulate_design(known_system(), 100, 50)
    assert np.ptp(calm) < 1e-12
    late = simulate_design(known_system(), 100, 50, misfortune=Misfortune(straggler_share=0.02, straggler_factor=50))
    # A shard is copied after twice the expected time and 0.25 s, so a straggler delays a step by little.
    assert calm[0] < np.median(late) < calm[0] + 0.5
    lost = simulate_design(known_system(), 100, 50, misfortune=Misfortune(failures_per_hour=3600, detect_s=1))
    assert calm[0] + 0.5 < np.median(lost) < calm[0] + 3
    assert np.array_equal(lost, simulate_design(known_system(), 100, 50, misfortune=Misfortune(3600, 1)))


def test_a_tree_takes_many_answers_sooner() -> None:
    many = 10_000
    flat, tree = (np.median(simulate_design(known_system(), many, 5, design)) for design in (Design(), Design(fan=100)))
    assert flat > 2 * many * EACH * 0.9
    assert tree < flat / 10
    few = [np.median(simulate_design(known_system(), 8, 5, design)) for design in (Design(), Design(fan=100))]
    assert few[0] == few[1]


def test_sharded_updates_relieve_the_drivers_link() -> None:
    nodes = known_system(workers_per_node=1, node_s=0.64, answers_s=0.64)
    flat, sharded = (
        np.median(simulate_design(nodes, 64, 3, design)) for design in (Design(), Design(sharded_update=True))
    )
    assert flat > 64 * 0.64
    assert sharded < 2
