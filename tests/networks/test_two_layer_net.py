"""The network of the article."""

from __future__ import annotations

import numpy as np
import pytest

from distnum import InputError, TwoLayerNet


@pytest.fixture
def network() -> TwoLayerNet:
    return TwoLayerNet(5, 4, 3, init_std=0.5)


X, T = np.random.default_rng(1).random((6, 5)), np.array([0, 1, 2, 0, 1, 2])


def test_both_methods_give_the_same_gradient(network: TwoLayerNet) -> None:
    by_propagation, naive = network.numerical_gradient(X, T), network.numerical_gradient(X, T, method="naive")
    assert by_propagation.keys() == naive.keys() == network.params.keys()
    for name, array in by_propagation.items():
        assert array.shape == network.params[name].shape
        np.testing.assert_allclose(array, naive[name], atol=1e-8)


def test_predictions_are_probabilities_that_give_loss_and_accuracy(network: TwoLayerNet) -> None:
    probabilities = network.predict(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert network.loss(X, T) == pytest.approx(-np.log(probabilities[np.arange(6), T]).mean())
    assert network.accuracy(X, np.eye(3)[T]) == np.mean(probabilities.argmax(axis=1) == T)


def test_a_step_along_the_gradient_lowers_the_loss(network: TwoLayerNet) -> None:
    before = network.loss(X, T)
    for name, array in network.numerical_gradient(X, T).items():
        network.params[name] -= 0.1 * array
    assert network.loss(X, T) < before


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (X[:, :4], T, "x has shape"),
        (X[:0], T[:0], "x is empty"),
        (X * np.inf, T, "not finite"),
        (X, T[:5], "t has shape"),
        (X, T + 1, "labels must be whole numbers from 0 to 2"),
        (X, T / 2, "labels must be"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(network: TwoLayerNet, x: np.ndarray, t: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message), np.errstate(invalid="ignore"):
        network.loss(x, t)


def test_an_unknown_method_is_refused(network: TwoLayerNet) -> None:
    with pytest.raises(InputError, match="method is 'fast'"):
        network.numerical_gradient(X, T, method="fast")
