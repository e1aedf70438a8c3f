"""Difference propagation gives the finite differences that whole forward passes give, only better."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest

from benchmarks.memory import CODE
from distnum import Activation
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.activations import get_activation
from distnum.networks.dense import Network
from distnum.networks.propagation import routes
from distnum.networks.propagation.kinks import LaterLayer, later_kinks
from distnum.networks.propagation.objective import Propagation
from distnum.networks.propagation.taylor import enough_terms, loss_series, output_series
from distnum.workers.tiles import Shard, balance, make_shards, positions_of
from distnum.workers.work import whole_gradient
from tests.reference import (
    POINTS,
    backpropagated_gradient,
    naive_gradient,
    random_batch,
    relative_error,
)

EXTENDED = np.finfo(np.longdouble).eps < 1e-18
needs_extended = pytest.mark.skipif(not EXTENDED, reason="longdouble is no wider than double on this machine")

ACTIVATIONS = ["relu", "leaky_relu:0.2", "tanh", "sigmoid", "softplus", "identity", "step", "sign", "quantize:4"]
SHAPES = [(9, 4), (9, 6, 4), (9, 6, 5, 4), (9, 5, 5, 4, 3)]


def network_params(network: Network, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    # Biases too: at zero, `step` and `sign` would stand exactly on their jumps.
    return (0.7 * np.random.default_rng(seed).standard_normal(network.n_params)).astype(dtype)


@needs_extended
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_the_naive_oracle(sizes: tuple[int, ...], activation: str) -> None:
    for loss, scheme, h in product(["cross_entropy", "mean_squared_error"], POINTS, [1e-4, 0.03, 0.7]):
        network = Network(sizes, activation, loss)
        params, batch = network_params(network), random_batch(network, 7)
        objective = Propagation(network, scheme, h)
        found = whole_gradient(objective, params, batch)
        expected = naive_gradient(network, params, batch, POINTS[scheme], h)
        assert relative_error(found, expected) <= 1e-9, (loss, scheme, h)


@needs_extended
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2", "step", "quantize:4"])
def test_kinks_within_the_step_are_crossed_as_they_are(activation: str) -> None:
    network = Network((6, 8, 8, 3), activation)
    params, batch = network_params(network, 3), random_batch(network, 12, 3)
    # Put pre-activations of both hidden layers within the step of a kink.
    for layer in range(2):
        rows = network.layers[layer].rows(params)
        a = network.forward(params, batch[0]).preactivations[layer]
        kink = 1 / 6 if activation == "quantize:4" else 0.0
        rows[-1] -= a[:8].diagonal() - kink - 2e-5
    a = network.forward(params, batch[0]).preactivations[0][:8].diagonal()
    assert np.abs(a - (1 / 6 if activation == "quantize:4" else 0.0)).max() < 1e-4
    objective = Propagation(network, "central", 1e-4)
    found = whole_gradient(objective, params, batch)
    expected = naive_gradient(network, params, batch, POINTS["central"], 1e-4)
    assert relative_error(found, expected) <= 1e-9
    if activation == "relu":
        # And this is what a central difference is, not what a derivative is.
        assert relative_error(found, backpropagated_gradient(network, params, batch)) > 1e-4


@needs_extended
@pytest.mark.parametrize("most", [0, 2, 1000])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2"])
def test_later_units_that_bend_are_followed_one_by_one_or_pushed(
    activation: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_MOST_KINKS", most)
    network = Network((6, 12, 11, 10, 9, 3), activation)
    params, batch = network_params(network), random_batch(network, 5)
    for h in (1e-3, 0.05):
        objective = Propagation(network, "central", h)
        found = whole_gradient(objective, params, batch)
        assert relative_error(found, naive_gradient(network, params, batch, POINTS["central"], h)) <= 1e-9


def test_the_bends_of_later_units_add_up_to_the_change_of_the_outputs() -> None:
    rng = np.random.default_rng(3)
    sizes = (5, 7, 6, 4)  # units that move, two hidden layers, outputs
    weights = [rng.standard_normal((n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    preactivations = [rng.standard_normal((1, n)) for n in sizes[1:-1]]
    layers = [LaterLayer(w, abs(w), a) for w, a in zip(weights, preactivations, strict=False)]
    relu = get_activation("relu")
    t_max = np.full((1, 5), 0.6)
    straight, found = later_kinks(layers, weights[-1], relu, t_max)
    kinks = found[0]
    assert 0 < len(kinks.slopes) <= 13
    assert straight is not None
    slopes = [relu.slope(a[0]) for a in preactivations]
    direction = weights[0] * slopes[0] @ weights[1] * slopes[1] @ weights[2]
    for unit, t in product(range(5), (-0.6, -0.2, 0.4, 0.6)):
        change = t * weights[0][unit]
        for a, w in zip(preactivations, weights[1:], strict=True):
            change = relu.change(a[0], change) @ w
        over = np.zeros(len(kinks.slopes))
        for k, (a, slope) in enumerate(zip(kinks.preactivations, kinks.slopes, strict=True)):
            shift = t * kinks.to_units[k, unit] + kinks.to_kinks[k] @ over
            over[k] = relu.change(a, shift) - slope * shift
        np.testing.assert_allclose(t * direction[unit] + kinks.to_outputs @ over, change, atol=1e-14)
        assert not straight[0, unit] or not over.any()


@needs_extended
@pytest.mark.parametrize("terms", [(), (3,), (9,), (3, 5, 9)], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_smooth_later_layers_are_followed_by_series_or_pushed(
    activation: str, loss: str, terms: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_SERIES_TERMS", terms)
    pushed = []
    compile_push = routes.UnitRoutes._compile_push
    monkeypatch.setattr(routes.UnitRoutes, "_compile_push", lambda *args: pushed.append(compile_push(*args)))
    network = Network((4, 8, 7, 6, 3), activation, loss)
    for scale, h in product((1, 3), (1e-4, 1e-2, 0.5)):
        params, batch = network_params(network) * scale, random_batch(network, 5)
        objective = Propagation(network, "central", h)
        pushed.clear()
        found = whole_gradient(objective, params, batch)
        assert relative_error(found, naive_gradient(network, params, batch, POINTS["central"], h)) <= 1e-9
        if h == 1e-4:
            assert bool(pushed) == (terms in ((), (3,)))
        if h == 0.5 and scale == 3:
            assert pushed


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_the_series_along_a_unit_adds_up_to_the_change_of_the_loss(activation: str, loss: str) -> None:
    network = Network((6, 5, 4, 7, 3), activation, loss)
    params, (x, y) = network_params(network), random_batch(network, 8)
    rows = [layer.rows(params) for layer in network.layers]
    f = network.activation.value

    def passed(a: np.ndarray, layers: Sequence[np.ndarray]) -> list[np.ndarray]:
        preactivations = [a]
        for weights in layers:
            preactivations.append(f(preactivations[-1]) @ weights[:-1] + weights[-1])
        return preactivations

    preactivations = passed(x @ rows[0][:-1] + rows[0][-1], rows[1:])
    at = network.loss_function.at(preactivations[-1], y)
    deltas = output_series([w[:-1] for w in rows[1:]], preactivations[1:-1], network.activation, 11)
    series = loss_series(deltas, loss, at.factors, at.labels)
    before = network.loss_function.values(preactivations[-1], y)
    for unit, t in product(range(5), (-0.02, 0.01)):
        z = f(preactivations[0])
        z[:, unit] += t
        outputs = passed(z @ rows[1][:-1] + rows[1][-1], rows[2:])[-1]
        total = sum(series[k, :, unit] * t ** (k + 1) for k in range(11))
        np.testing.assert_allclose(total, network.loss_function.values(outputs, y) - before, atol=1e-14)
    assert enough_terms(series, np.full((8, 5), 1e-4), 9)
    assert not enough_terms(series, np.full((8, 5), 0.5), 9)


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "identity"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_smooth_networks_have_the_truncation_of_the_scheme_only(sizes, activation: str, loss: str) -> None:
    network = Network(sizes, activation, loss)
    params, batch = network.initial_params(init="xavier"), random_batch(network, 20)
    expected = backpropagated_gradient(network, params, batch)
    for scheme, h, most in [("central", 1e-4, 1e-8), ("central4", 1e-3, 1e-9)]:
        objective = Propagation(network, scheme, h)
        found = whole_gradient(objective, params, batch)
        assert relative_error(found, expected) <= most, scheme


@pytest.mark.parametrize("init_std", [0.01, None])
def test_the_article_network_agrees_with_backpropagation_away_from_kinks(init_std: float | None) -> None:
    """What is left is the truncation of the scheme: of central differences ``h^2 / 6`` times the third derivative."""
    network = Network((784, 50, 10))
    params, dataset = network.initial_params(seed=5, init_std=init_std), load_data()
    x, y = batch_at(dataset, 5, 100, np.float64, 1)
    a = network.forward(params, x).preactivations[0]
    clear = np.abs(a).min(axis=1) > 3e-4
    assert clear.sum() > 60
    batch = (x[clear], y[clear])
    expected = backpropagated_gradient(network, params, batch)
    w1 = slice(784 * 50)
    for scheme, where, most in (
        ("central", slice(None), 1e-8),
        ("central", w1, 1e-10),
        ("central4", slice(None), 1e-12),
    ):
        objective = Propagation(network, scheme, 1e-4)
        found = whole_gradient(objective, params, batch)
        assert relative_error(found[where], expected[where]) <= most


def test_float32_keeps_most_of_its_digits() -> None:
    network = Network((784, 50, 10))
    x, y = batch_at(load_data(), 5, 60, np.float32, 1)
    params = network.initial_params(seed=5, dtype=np.float32)
    clear = np.abs(network.forward(params, x).preactivations[0]).min(axis=1) > 2e-4
    batch = (x[clear], y[clear])
    objective = Propagation(network, "central", 1e-4)
    found = whole_gradient(objective, params, batch)
    assert found.dtype == np.float32
    wide = (batch[0].astype(np.float64), batch[1])
    assert relative_error(found, backpropagated_gradient(network, params.astype(np.float64), wide)) <= 5e-4


def test_real_and_one_hot_targets() -> None:
    network = Network((9, 6, 4), "tanh", "mean_squared_error")
    params, (x, labels) = network_params(network), random_batch(network, 11)
    objective = Propagation(network)
    by_labels = whole_gradient(objective, params, (x, labels))
    by_rows = whole_gradient(objective, params, (x, np.eye(4)[labels]))
    np.testing.assert_array_equal(by_labels, by_rows)


def _bump(a: float) -> float:
    return a / (1 + a * a) + (0.3 if a > 0.2 else 0.0)


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("hidden", [(7,), (7, 6)])
@pytest.mark.parametrize("compiled", [True, False], ids=["scalar", "vectorised"])
@pytest.mark.parametrize("h", [1e-3, 0.3])
def test_activations_of_the_user(compiled: bool, hidden: tuple[int, ...], loss: str, h: float) -> None:
    def vectorised(a: np.ndarray) -> np.ndarray:
        return a / (1 + a * a) + np.where(a > 0.2, a.dtype.type(0.3), a.dtype.type(0))

    activation = (
        Activation.from_scalar_function(_bump) if compiled else Activation.from_function(vectorised, "vectorised")
    )
    network, oracle = (
        Network((9, *hidden, 4), one, loss)
        for one in (activation, Activation.from_function(vectorised, "of any precision"))
    )
    params, batch = network_params(network), random_batch(network, 9)
    objective = Propagation(network, "central", h)
    found = whole_gradient(objective, params, batch)
    expected = naive_gradient(oracle, params, batch, POINTS["central"], h)
    # Nothing is known of the function, so that its changes are differences of its values.
    assert relative_error(found, expected) <= 1e-10 / h


def test_an_activation_of_the_user_trains() -> None:
    from distnum.workers.serial_pool import SerialPool

    network = Network((9, 7, 4), Activation.from_scalar_function(_bump))
    params, batch = network_params(network), random_batch(network, 30)
    objective = Propagation(network)
    pool = SerialPool(objective, lambda step: batch)
    pool.plan(objective.expected_costs(batch))
    grad = pool.gradient(1, params).grad
    assert network.loss(params - 0.1 * grad, batch) < network.loss(params, batch)


def assert_put_together(
    objective: Propagation, params: np.ndarray, batch: tuple, shards: list[Shard], whole: np.ndarray
) -> None:
    """Each shard's slice is that of the whole gradient, and nothing beside it is touched."""
    for shard in shards:
        expected = np.full_like(whole, np.nan)
        places = positions_of(objective.tiles, shard, objective.order)
        expected[places] = whole[places]
        found = np.full_like(whole, np.nan)
        objective.at(params, batch).grad_slice(shard, found)
        np.testing.assert_array_equal(found, expected, err_msg=f"{len(shards)} shards")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "quantize:4"])
def test_bits_do_not_depend_on_the_shards(activation: str, dtype: type) -> None:
    network = Network((40, 30, 30, 5), activation)
    x, y = random_batch(network, 50)
    params, batch = network_params(network, dtype=dtype), (x.astype(dtype), y)
    objective = Propagation(network, "central", 1e-2)
    point = objective.at(params, batch)
    whole = whole_gradient(objective, params, batch)
    for n_shards in (2, 3, 5, 7, 64):
        shards = make_shards(point.costs, n_shards, objective.groups)
        assert_put_together(objective, params, batch, shards, whole)


@pytest.mark.parametrize(
    ("activation", "hidden", "h"),
    [
        ("relu", (60,), 1e-4),
        ("tanh", (60,), 1e-4),
        ("relu", (40, 40), 1e-2),
        ("step", (60,), 0.1),
        ("tanh", (9, 9), 1e-3),
    ],
)
def test_bits_do_not_depend_on_the_threads(activation: str, hidden: tuple[int, ...], h: float) -> None:
    network = Network((784, *hidden, 10), activation)
    params, batch = network.initial_params(), batch_at(load_data(), 0, 300, np.float64, 1)
    objective = Propagation(network, "central", h)
    alone = whole_gradient(objective, params, batch)
    for n_threads in (2, 3):
        found = whole_gradient(objective, params, batch, n_threads)
        np.testing.assert_array_equal(found, alone, err_msg=f"{n_threads} threads")


@pytest.mark.parametrize("activation", ["relu", "tanh", "quantize:4"])
def test_groups_of_units_give_the_same_gradient(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network((40, 30, 20, 5), activation)
    params, batch = network_params(network), random_batch(network, 20)
    objective = Propagation(network, "central", 1e-2)
    together = whole_gradient(objective, params, batch)
    assert objective.order is None
    monkeypatch.setattr("distnum.networks.propagation.objective._GROUP_UNITS", 7)
    grouped = Propagation(network, "central", 1e-2)
    assert sorted(grouped.order.tolist()) == list(range(network.n_params))
    found = whole_gradient(grouped, params, batch)
    np.testing.assert_allclose(found, together, rtol=1e-10, atol=1e-13)
    for n_shards in (2, 5, 64):
        shards = make_shards(grouped.at(params, batch).costs, n_shards, grouped.groups)
        assert_put_together(grouped, params, batch, shards, found)


def test_few_shards_share_a_group_of_units() -> None:
    network = Network((784, 500, 10))
    objective = Propagation(network)
    costs = objective.expected_costs(batch_at(load_data(), 0, 100, np.float64, 1))
    of_shard = [set(objective.groups[shard].tolist()) for shard in make_shards(costs, 2, objective.groups)]
    assert len(of_shard[0] & of_shard[1]) <= 1
    assert {0, 1, 2, 3, 4} == of_shard[0] | of_shard[1]


@pytest.mark.parametrize("n_shards", [2, 8, 64])
def test_busiest_shard_of_real_digits(n_shards: int) -> None:
    """As the driver plans it; counted in pairs of an example and a nonzero input, times the units each moves."""
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


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process its own peak")
def test_memory_is_bounded_whatever_the_width_and_the_batch() -> None:
    code = CODE.format(sizes=(784, 2000, 10), batch_size=1000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 500


FAULTS = """
import resource
from functools import partial
import numpy as np
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.workers.tiles import all_tiles
from distnum.workers.worker import Worker
from distnum.networks.propagation.objective import Propagation
network = Network((784, 256, 256, 10))
objective = Propagation(network)
worker = Worker(objective, partial(batch_at, load_data(), 0, 500, np.float64))
grad = np.empty(network.n_params)
for step in range(1, 4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    worker.grad_slice(step, step, network.initial_params(), all_tiles(objective.tiles), grad, first=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library lets one choose what it keeps")
def test_a_gradient_takes_the_memory_that_the_one_before_has_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120, check=True)
    *_, last = map(int, done.stdout.split())
    assert last < 300


def test_an_input_that_is_zero_everywhere_costs_and_changes_nothing() -> None:
    network = Network((9, 6, 4))
    params, (x, y) = network_params(network), random_batch(network, 11)
    x[:, 3] = 0
    objective = Propagation(network)
    assert objective.at(params, (x, y)).costs[3] == 0
    assert not network.unpack(whole_gradient(objective, params, (x, y)))["W1"][3].any()
