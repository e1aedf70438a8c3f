"""Taylor series of the loss along a unit's output."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from distnum.networks.dense import Network
from distnum.networks.propagation.taylor import enough_terms, loss_series, output_series
from tests.networks.propagation.cases import LOSSES, network_params
from tests.reference import random_batch


@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_the_series_along_a_unit_adds_up_to_the_change_of_the_loss(activation: str, loss: str) -> None:
    network = Network((6, 4, 3, 5, 3), activation, loss)
    params, (x, y) = network_params(network), random_batch(network, 3)
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
    for unit, t in product(range(4), (-0.02, 0.01)):
        z = f(preactivations[0])
        z[:, unit] += t
        outputs = passed(z @ rows[1][:-1] + rows[1][-1], rows[2:])[-1]
        total = sum(series[k, :, unit] * t ** (k + 1) for k in range(11))
        np.testing.assert_allclose(total, network.loss_function.values(outputs, y) - before, atol=1e-14)
    assert enough_terms(series, np.full((3, 4), 1e-4), 9)
    assert not enough_terms(series, np.full((3, 4), 0.5), 9)
