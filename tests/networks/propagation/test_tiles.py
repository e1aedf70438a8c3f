"""Tiles, shards and groups of units: they do not change the bits, and their work is balanced."""

from __future__ import annotations

import numpy as np
import pytest

from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.tiles import Shard, balance, make_shards, positions_of
from tests.networks.propagation.cases import network_params
from tests.reference import random_batch


def assert_shards_give_the_whole_gradient(
    objective: Propagation, params: np.ndarray, batch: tuple, shards: list[Shard], whole: np.ndarray
) -> None:
    """Each shard writes its part of the whole gradient, and nothing else."""
    for shard in shards:
        expected = np.full_like(whole, np.nan)
        positions = positions_of(objective.tiles, shard, objective.order)
        expected[positions] = whole[positions]
        gradient = np.full_like(whole, np.nan)
        objective.at(params, batch).compute(shard, gradient)
        np.testing.assert_array_equal(gradient, expected, err_msg=f"{len(shards)} shards")


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("relu", np.float64),
        *(
            pytest.param(activation, dtype, marks=pytest.mark.slow)
            for activation, dtype in [
                ("tanh", np.float64),
                ("leaky_relu", np.float64),
                ("quantize:4", np.float64),
                ("relu", np.float32),
                ("tanh", np.float32),
                ("leaky_relu", np.float32),
                ("quantize:4", np.float32),
            ]
        ),
    ],
)
def test_bits_do_not_depend_on_the_shards(activation: str, dtype: type) -> None:
    network = Network((40, 30, 30, 5), activation)
    x, y = random_batch(network, 50)
    params, batch = network_params(network, dtype=dtype), (x.astype(dtype), y)
    objective = Propagation(network, "central", 1e-2)
    point = objective.at(params, batch)
    whole = whole_gradient(objective, params, batch)
    for n_shards in (2, 3, 5, 7, 64):
        shards = make_shards(point.costs, n_shards, objective.groups)
        assert_shards_give_the_whole_gradient(objective, params, batch, shards, whole)


@pytest.mark.parametrize(
    "activation", ["relu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tanh", "quantize:4"))]
)
def test_groups_of_units_give_the_same_gradient(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network((40, 30, 20, 5), activation)
    params, batch = network_params(network), random_batch(network, 20)
    objective = Propagation(network, "central", 1e-2)
    together = whole_gradient(objective, params, batch)
    assert objective.order is None
    monkeypatch.setattr("distnum.networks.propagation.objective._GROUP_UNITS", 7)
    grouped = Propagation(network, "central", 1e-2)
    assert sorted(grouped.order.tolist()) == list(range(network.n_params))
    gradient = whole_gradient(grouped, params, batch)
    np.testing.assert_allclose(gradient, together, rtol=1e-10, atol=1e-13)
    for n_shards in (2, 5, 64):
        shards = make_shards(grouped.at(params, batch).costs, n_shards, grouped.groups)
        assert_shards_give_the_whole_gradient(grouped, params, batch, shards, gradient)


def test_few_shards_share_a_group_of_units() -> None:
    network = Network((784, 500, 10))
    objective = Propagation(network)
    costs = objective.expected_costs(batch_at(load_data(), 0, 100, np.float64, 1))
    of_shard = [set(objective.groups[shard].tolist()) for shard in make_shards(costs, 2, objective.groups)]
    assert len(of_shard[0] & of_shard[1]) <= 1
    assert {0, 1, 2, 3, 4} == of_shard[0] | of_shard[1]


@pytest.mark.parametrize("n_shards", [2, 8, 64])
def test_shards_of_real_digits_have_balanced_work(n_shards: int) -> None:
    """Shards as the driver plans them; work is pairs of an example and a nonzero input, times units."""
    network, dataset = Network((784, 50, 10)), load_data()
    objective = Propagation(network)
    params = network.initial_params()
    before = None
    for step in range(1, 6):
        x, y = batch_at(dataset, 0, 100, np.float64, step)
        shards = make_shards(objective.expected_costs((x, y), before), n_shards, objective.groups)
        hidden = network.activation.value(network.forward(params, x).preactivations[0])
        pairs = np.concatenate(
            [
                np.repeat(np.append(np.count_nonzero(z, axis=0), len(x)), layer.n_out)
                for z, layer in zip((x, hidden), network.layers, strict=True)
            ]
        )
        work = [
            sum(pairs[objective.tiles[t] : objective.tiles[t + 1]].sum() for t in shard.tolist()) for shard in shards
        ]
        assert max(work) <= 1.10 * np.mean(work)
        before = objective.at(params, (x, y)).costs
        assert balance(before, shards) <= 1.10
