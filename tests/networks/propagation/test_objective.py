"""Difference propagation gives the finite differences of whole forward passes, with less rounding error."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest

from distnum import Activation
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from tests.networks.propagation.cases import ACTIVATIONS, LOSSES, SHAPES, needs_extended, network_params
from tests.reference import POINTS, backpropagated_gradient, naive_gradient, random_batch, relative_error

# --- agreement with oracles ---------------------------------------------------------


DTYPES = [np.float64, np.float32]


def assert_agrees_with_the_naive_oracle(
    network: Network, schemes: Iterable[str], steps: Iterable[float], n_examples: int, dtype: type = np.float64
) -> None:
    params, (x, y) = network_params(network, dtype=dtype), random_batch(network, n_examples)
    batch = (x.astype(dtype), y)
    for scheme, h in product(schemes, steps):
        gradient = whole_gradient(Propagation(network, scheme, h), params, batch)
        assert gradient.dtype == dtype
        expected = naive_gradient(network, params, batch, POINTS[scheme], h)
        assert relative_error(gradient, expected) <= (1e-9 if dtype is np.float64 else 1e-4), (scheme, h)


@needs_extended
@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_python_loops_agree_with_the_naive_oracle(activation: str, loss: str, dtype: type) -> None:
    for sizes in [(4, 3), (4, 4, 3, 3)]:
        assert_agrees_with_the_naive_oracle(Network(sizes, activation, loss), POINTS, [0.01, 0.7], 3, dtype)


@needs_extended
@pytest.mark.parametrize("activation", ["relu", "tanh", "step"])
def test_compiled_loops_agree_with_the_naive_oracle(activation: str) -> None:
    """One activation of each kind: piecewise linear, smooth, with jumps."""
    assert_agrees_with_the_naive_oracle(Network((9, 6, 5, 4), activation), ["central", "forward"], [1e-4, 0.3], 7)


@needs_extended
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_compiled_loops_agree_with_the_naive_oracle(
    sizes: tuple[int, ...], activation: str, loss: str, dtype: type
) -> None:
    assert_agrees_with_the_naive_oracle(Network(sizes, activation, loss), POINTS, [1e-4, 0.03, 0.7], 7, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "identity"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_smooth_networks_have_the_truncation_error_of_the_scheme_only(sizes, activation: str, loss: str) -> None:
    network = Network(sizes, activation, loss)
    params, batch = network.initial_params(init="xavier"), random_batch(network, 20)
    expected = backpropagated_gradient(network, params, batch)
    for scheme, h, most in [("central", 1e-4, 1e-8), ("central4", 1e-3, 1e-9)]:
        gradient = whole_gradient(Propagation(network, scheme, h), params, batch)
        assert relative_error(gradient, expected) <= most, scheme


@pytest.mark.parametrize("init_std", [0.01, None])
def test_the_article_network_agrees_with_backpropagation_away_from_kinks(init_std: float | None) -> None:
    """What remains is the truncation error of central differences: ``h^2 / 6`` times the third derivative."""
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
        gradient = whole_gradient(Propagation(network, scheme, 1e-4), params, batch)
        assert relative_error(gradient[where], expected[where]) <= most


def test_float32_keeps_most_of_its_digits() -> None:
    network = Network((784, 50, 10))
    x, y = batch_at(load_data(), 5, 60, np.float32, 1)
    params = network.initial_params(seed=5, dtype=np.float32)
    clear = np.abs(network.forward(params, x).preactivations[0]).min(axis=1) > 2e-4
    batch = (x[clear], y[clear])
    gradient = whole_gradient(Propagation(network, "central", 1e-4), params, batch)
    assert gradient.dtype == np.float32
    wide = (batch[0].astype(np.float64), batch[1])
    assert relative_error(gradient, backpropagated_gradient(network, params.astype(np.float64), wide)) <= 5e-4


@pytest.mark.usefixtures("plain_python")
def test_labels_and_one_hot_rows_are_the_same_targets() -> None:
    network = Network((9, 6, 4), "tanh", "mean_squared_error")
    params, (x, labels) = network_params(network), random_batch(network, 11)
    objective = Propagation(network)
    by_labels = whole_gradient(objective, params, (x, labels))
    by_rows = whole_gradient(objective, params, (x, np.eye(4)[labels]))
    np.testing.assert_array_equal(by_labels, by_rows)


@pytest.mark.usefixtures("plain_python")
def test_an_input_that_is_zero_everywhere_costs_and_changes_nothing() -> None:
    network = Network((9, 6, 4))
    params, (x, y) = network_params(network), random_batch(network, 11)
    x[:, 3] = 0
    objective = Propagation(network)
    assert objective.at(params, (x, y)).costs[3] == 0
    assert not network.unpack(whole_gradient(objective, params, (x, y)))["W1"][3].any()


# --- the user's activations ---------------------------------------------------------


def _bump(a: float) -> float:
    return a / (1 + a * a) + (0.3 if a > 0.2 else 0.0)


def _vectorised_bump(a: np.ndarray) -> np.ndarray:
    return a / (1 + a * a) + np.where(a > 0.2, a.dtype.type(0.3), a.dtype.type(0))


def assert_agrees_for_a_users_activation(activation: Activation, hidden: tuple[int, ...], loss: str, h: float) -> None:
    network = Network((9, *hidden, 4), activation, loss)
    oracle = Network((9, *hidden, 4), Activation.from_function(_vectorised_bump, "of any precision"), loss)
    params, batch = network_params(network), random_batch(network, 9)
    gradient = whole_gradient(Propagation(network, "central", h), params, batch)
    expected = naive_gradient(oracle, params, batch, POINTS["central"], h)
    # Nothing is known about the function, so its changes are differences of its values.
    assert relative_error(gradient, expected) <= 1e-10 / h


@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [(7,), (5, 4)])
@pytest.mark.parametrize("h", [1e-3, 0.3])
def test_vectorised_activations_of_the_user(hidden: tuple[int, ...], loss: str, h: float) -> None:
    activation = Activation.from_function(_vectorised_bump)
    assert_agrees_for_a_users_activation(activation, hidden, loss, h)


@pytest.mark.parametrize("loss", ["cross_entropy", pytest.param("mean_squared_error", marks=pytest.mark.slow)])
@pytest.mark.parametrize("hidden", [pytest.param((7,), marks=pytest.mark.slow), (7, 6)])
@pytest.mark.parametrize("h", [pytest.param(1e-3, marks=pytest.mark.slow), 0.3])
def test_scalar_activations_of_the_user(hidden: tuple[int, ...], loss: str, h: float) -> None:
    assert_agrees_for_a_users_activation(Activation.from_scalar_function(_bump), hidden, loss, h)


@pytest.mark.usefixtures("plain_python")
def test_a_step_along_the_gradient_of_a_users_activation_lowers_the_loss() -> None:
    network = Network((5, 4, 3), Activation.from_scalar_function(_bump))
    params, batch = network_params(network), random_batch(network, 10)
    grad = whole_gradient(Propagation(network), params, batch)
    assert network.loss(params - 0.1 * grad, batch) < network.loss(params, batch)
