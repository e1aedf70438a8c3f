"""Losses: values, changes without cancellation, lengths of series."""

from __future__ import annotations

from math import expm1, log

import numpy as np
import pytest

from distnum import InputError
from distnum.networks.losses import LOSSES, CrossEntropy, get_loss, series_length

OUTPUTS = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])
LABELS = np.array([2, 1])


def test_cross_entropy_is_minus_the_logarithm_of_the_probability() -> None:
    probabilities = CrossEntropy.probabilities(OUTPUTS)
    np.testing.assert_allclose(probabilities, np.exp(OUTPUTS) / np.exp(OUTPUTS).sum(axis=1, keepdims=True))
    expected = -np.log(probabilities[[0, 1], LABELS])
    np.testing.assert_allclose(get_loss("cross_entropy").values(OUTPUTS, LABELS), expected)


def test_probabilities_of_large_outputs_are_finite() -> None:
    np.testing.assert_array_equal(
        CrossEntropy.probabilities(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]]
    )


def test_squared_error_is_a_mean_over_the_outputs() -> None:
    values = get_loss("mean_squared_error").values(OUTPUTS, np.array([[1.0, 0.0, 0.5], [3.0, 0.0, 3.0]]))
    np.testing.assert_allclose(values, [4 / 3, 3])


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_one_hot_rows_give_the_same_loss(name: str) -> None:
    loss = get_loss(name)
    np.testing.assert_array_equal(loss.values(OUTPUTS, LABELS), loss.values(OUTPUTS, np.eye(3)[LABELS]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_change_is_the_difference_of_values(name: str, scale: float) -> None:
    loss = get_loss(name)
    delta = scale * np.random.default_rng(0).standard_normal((6, 3))
    point = loss.at(OUTPUTS, LABELS)
    for example in range(2):
        after = loss.values(OUTPUTS[example] + delta, np.full(6, LABELS[example]))
        before = loss.values(OUTPUTS, LABELS)[example]
        np.testing.assert_allclose(point.change(example, delta), after - before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("largest", [1e-7, 1e-5, 1e-3, 0.05])
def test_series_of_the_given_length_are_exact_to_rounding(largest: float, dtype: type) -> None:
    """For one output the sum is ``expm1(x)``, and the logarithm of the ratio of two such sums ``2 x``."""
    length = series_length(largest, np.dtype(dtype))
    assert length is not None
    terms = np.cumprod(largest / np.arange(1.0, length.n_terms + 1))
    eps = float(np.finfo(dtype).eps)
    assert terms.sum() == pytest.approx(expm1(largest), rel=eps)
    r = np.tanh(largest)
    powers = 2 * np.arange(length.n_log_terms) + 1
    assert 2 * (r**powers / powers).sum() == pytest.approx(log((1 + r) / (1 - r)), rel=max(eps, 1e-13 / largest**0.5))


@pytest.mark.parametrize("largest", [0.5, 1.0, np.inf, np.nan])
def test_long_moves_have_no_short_series(largest: float) -> None:
    assert series_length(largest, np.dtype(np.float64)) is None


@pytest.mark.parametrize("name", ["cross", "", None, ["cross_entropy"]])
def test_an_unknown_loss_is_refused(name: object) -> None:
    with pytest.raises(InputError, match=r"loss is .* must be one of cross_entropy, mean_squared_error"):
        get_loss(name)
