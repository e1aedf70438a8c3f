"""Estimated errors are honest: they cover the true error, and are not much larger.

``python -m benchmarks errors`` measures the same on more than 100 functions of other packages.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import Status
from distnum.differentiation.judgment.errors import noise_norm, taylor_terms, truncation_error

# Function, derivative, points.
FUNCTIONS: list[tuple[Callable[[float], float], Callable[[float], float], tuple[float, ...]]] = [
    (math.exp, math.exp, (-2.0, 0.3, 5.0)),
    (math.sin, math.cos, (0.1, 1.4, 20.0)),
    (math.log, lambda x: 1 / x, (0.2, 1.5, 1e3)),
    (math.sqrt, lambda x: 0.5 / math.sqrt(x), (0.3, 4.0, 1e4)),
    (lambda x: 1 / x, lambda x: -1 / x**2, (0.4, -3.0, 50.0)),
    (math.atan, lambda x: 1 / (1 + x * x), (0.0, 1.2, 9.0)),
    (math.tanh, lambda x: 1 - math.tanh(x) ** 2, (0.3, 1.5, -2.0)),
    (math.cosh, math.sinh, (0.5, 2.0, -3.0)),
    (math.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x), (0.1, 1.0, -1.5)),
    (math.gamma, lambda x: math.gamma(x) * digamma(x), (0.7, 2.5, 6.0)),
    (lambda x: x**5 - 3 * x**2 + 1, lambda x: 5 * x**4 - 6 * x, (0.4, 1.3, -2.0)),
    (lambda x: x**3, lambda x: 3 * x**2, (0.1, 2.0, -7.0)),
    (lambda x: math.exp(-x * x), lambda x: -2 * x * math.exp(-x * x), (0.2, 1.1, -2.0)),
    (lambda x: math.sin(x) * math.exp(x), lambda x: (math.sin(x) + math.cos(x)) * math.exp(x), (0.5, 1.7, 3.0)),
    (lambda x: math.sin(8 * x), lambda x: 8 * math.cos(8 * x), (0.3, 1.0, -0.6)),
    (lambda x: 1 / (1 + 25 * x * x), lambda x: -50 * x / (1 + 25 * x * x) ** 2, (0.1, 0.5, -1.0)),
    (lambda x: math.log1p(x * x), lambda x: 2 * x / (1 + x * x), (0.3, 1.6, 5.0)),
    (lambda x: x**x, lambda x: x**x * (1 + math.log(x)), (0.5, 1.2, 3.0)),
    (lambda x: math.sin(math.exp(x)), lambda x: math.exp(x) * math.cos(math.exp(x)), (0.2, 1.0, 1.9)),
    (lambda x: math.hypot(x, 0.5), lambda x: x / math.hypot(x, 0.5), (0.2, 1.0, -4.0)),
]

WAYS: dict[str, dict[str, Any]] = {
    "order 4": {"order": 4},
    "order 6": {"order": 6},
    "order 8": {"order": 8},
    "adaptive": {"h": "adaptive"},
}


def digamma(x: float) -> float:
    """By recurrence and the asymptotic series."""
    if x < 10:
        return digamma(x + 1) - 1 / x
    return math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)


def ratios(noise: float, is_stated: bool, options: dict[str, Any], repeats: int = 3) -> Any:
    """Estimated divided by true error of the entries with status OK."""
    rng = np.random.default_rng(0)
    estimates, true = [], []
    for function, derivative, points in FUNCTIONS:
        for x in points * (repeats if noise else 1):
            level = noise * abs(function(x))

            def noisy(z: np.ndarray, function: Any = function, level: float = level) -> float:
                return float(function(float(z[0])) + level * rng.standard_normal())

            stated = {"noise": level} if noise and is_stated else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = distnum.differentiate(noisy, np.array([x]), on_error="one-sided", **stated, **options)
            if found.status[0] == Status.OK:
                estimates.append(found.error[0])
                true.append(max(abs(found.grad[0] - derivative(x)) - 4e-16 * abs(derivative(x)), 1e-300))
    assert len(true) >= 0.6 * sum(len(points) for _, _, points in FUNCTIONS) * (repeats if noise else 1)
    return np.array(estimates) / np.array(true)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("way", WAYS)
def test_errors_cover_the_true_ones_and_are_not_much_larger(way: str, noise: float) -> None:
    """In 95 % of the entries with status OK, and by a factor of at most 30 in the median."""
    ratio = ratios(noise, True, WAYS[way])
    assert (ratio >= 1).mean() >= 0.95
    assert np.median(ratio) <= (30 if way in ("order 4", "adaptive") else 100)


@pytest.mark.parametrize(("noise", "coverage"), [(1e-9, 0.75), (1e-8, 0.87)])
@pytest.mark.parametrize("way", ["order 2", *WAYS])
def test_noise_that_is_not_stated_is_in_most_errors(way: str, noise: float, coverage: float) -> None:
    """Each entry shows one sample of it, at no further cost; that may be small by chance."""
    assert (ratios(noise, False, WAYS.get(way, {})) >= 1).mean() >= coverage


def test_errors_of_order_2_stay_useful_without_noise() -> None:
    ratio = ratios(0.0, False, {})
    assert (ratio >= 1).mean() >= 0.95
    assert np.median(ratio) <= 100


def test_an_unused_coordinate_of_a_value_of_zero_has_an_error_in_forward_differences() -> None:
    found = distnum.differentiate(lambda x: np.array([x[0], 0.0]), np.ones(1), scheme="forward")
    assert 0 <= found.error[1, 0] < 1e-300


@pytest.mark.parametrize("offsets", [(1.0, -1.0), (1.0, -1.0, 2.0, -2.0), (1.0, 2.0), (0.7, -1.3, 2.1)])
def test_terms_are_those_of_the_taylor_series(offsets: tuple[float, ...]) -> None:
    h, k = 0.5, len(offsets)
    z = np.array(offsets)[:, None] * h
    coefficients = np.arange(2.0, 2.0 + k)
    changes = sum(c * z ** (j + 1) for j, c in enumerate(coefficients))[:, :, None]
    terms, norms = taylor_terms(z, changes, np.array([h]))
    assert terms[:, 0, 0] == pytest.approx(coefficients * h ** np.arange(k))
    assert norms.shape == (k, 1)
    assert (norms > 0).all()


def test_noise_adds_up_as_independent_errors_do() -> None:
    weights = np.array([[1.0], [-1.0]]) / 0.2
    assert noise_norm(weights) == pytest.approx([math.sqrt(2) / 0.2])
    assert noise_norm(np.array([[1.0]])) == pytest.approx([math.sqrt(2)])


def test_a_geometric_series_of_terms_goes_on() -> None:
    h, k = 0.1, 4
    z = np.array([1.0, -1.0, 2.0, -2.0])[:, None] * h
    changes = (1 / (1 - z) - 1)[:, :, None]  # all Taylor coefficients are 1
    terms, _ = taylor_terms(z, changes, np.array([h]))
    error = truncation_error(terms, z, np.array([h]), np.array([1.0]))[0, 0]
    true = abs(terms[0, 0, 0] - 1)
    assert true < error < 30 * true
    assert k == len(terms)
