"""Later units that leave their straight lines: their bends, and gradients over kinks."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from distnum.differentiation.objective import whole_gradient
from distnum.networks.activations import get_activation
from distnum.networks.dense import Network
from distnum.networks.propagation import routes
from distnum.networks.propagation.kinks import LaterLayer, later_kinks
from distnum.networks.propagation.objective import Propagation
from tests.networks.propagation.cases import needs_extended, network_params
from tests.reference import POINTS, backpropagated_gradient, naive_gradient, random_batch, relative_error


@needs_extended
@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2", "step", "quantize:4"])
def test_kinks_within_the_step_are_crossed(activation: str) -> None:
    network = Network((5, 6, 6, 3), activation)
    params, batch = network_params(network, 3), random_batch(network, 10, 3)
    # Put pre-activations of both hidden layers within the step of a kink.
    kink = 1 / 6 if activation == "quantize:4" else 0.0
    for layer in range(2):
        rows = network.layers[layer].rows(params)
        a = network.forward(params, batch[0]).preactivations[layer]
        rows[-1] -= a[:6].diagonal() - kink - 2e-5
    a = network.forward(params, batch[0]).preactivations[0][:6].diagonal()
    assert np.abs(a - kink).max() < 1e-4
    gradient = whole_gradient(Propagation(network, "central", 1e-4), params, batch)
    expected = naive_gradient(network, params, batch, POINTS["central"], 1e-4)
    assert relative_error(gradient, expected) <= 1e-9
    if activation == "relu":
        # The central difference over a kink is not the derivative.
        assert relative_error(gradient, backpropagated_gradient(network, params, batch)) > 1e-4


def assert_agrees_with_the_naive_oracle(activation: str, sizes: tuple[int, ...]) -> None:
    network = Network(sizes, activation)
    params, batch = network_params(network), random_batch(network, 5)
    for h in (1e-3, 0.05):
        gradient = whole_gradient(Propagation(network, "central", h), params, batch)
        assert relative_error(gradient, naive_gradient(network, params, batch, POINTS["central"], h)) <= 1e-9


@needs_extended
@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("most", [0, 1, 1000])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2"])
def test_later_units_with_kinks_are_followed_one_by_one_or_pushed(
    activation: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_MOST_KINKS", most)
    assert_agrees_with_the_naive_oracle(activation, (4, 7, 6, 5, 3))


@needs_extended
@pytest.mark.slow
@pytest.mark.parametrize("most", [0, 2, 1000])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2"])
def test_compiled_loops_over_kinks_agree_with_the_naive_oracle(
    activation: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_MOST_KINKS", most)
    assert_agrees_with_the_naive_oracle(activation, (6, 12, 11, 10, 9, 3))


def test_the_bends_of_later_units_add_up_to_the_change_of_the_outputs() -> None:
    rng = np.random.default_rng(3)
    sizes = (5, 7, 6, 4)  # units that move, two hidden layers, outputs
    weights = [rng.standard_normal((n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    preactivations = [rng.standard_normal((1, n)) for n in sizes[1:-1]]
    layers = [LaterLayer(w, abs(w), a) for w, a in zip(weights, preactivations, strict=False)]
    relu = get_activation("relu")
    t_max = np.full((1, 5), 0.6)
    straight, by_example = later_kinks(layers, weights[-1], relu, t_max)
    kinks = by_example[0]
    assert 0 < len(kinks.slopes) <= 13
    assert straight is not None
    slopes = [relu.slope(a[0]) for a in preactivations]
    direction = weights[0] * slopes[0] @ weights[1] * slopes[1] @ weights[2]
    for unit, t in product(range(5), (-0.6, -0.2, 0.4, 0.6)):
        change = t * weights[0][unit]
        for a, w in zip(preactivations, weights[1:], strict=True):
            change = relu.change(a[0], change) @ w
        bends = np.zeros(len(kinks.slopes))
        for k, (a, slope) in enumerate(zip(kinks.preactivations, kinks.slopes, strict=True)):
            shift = t * kinks.to_units[k, unit] + kinks.to_kinks[k] @ bends
            bends[k] = relu.change(a, shift) - slope * shift
        np.testing.assert_allclose(t * direction[unit] + kinks.to_outputs @ bends, change, atol=1e-14)
        assert not straight[0, unit] or not bends.any()
