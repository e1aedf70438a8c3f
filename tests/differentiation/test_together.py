"""Minima are told from kinks by moving all coordinates together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import rosen

import distnum
from distnum import DerivativeWarning, Status


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[[Any], float]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, x: Any) -> float:
        self.calls += 1
        return self.function(x)


@pytest.mark.parametrize("n", [3, 10, 200])
def test_a_minimum_costs_a_few_evaluations_for_all_coordinates(n: int) -> None:
    found = distnum.differentiate(rosen, np.ones(n))
    assert found.n_evals == 2 * n + 1 + 5 or n == 3
    assert np.all(np.abs(found.grad) <= found.error)
    assert np.all(found.error < 1e-5)


def test_so_are_steps_that_are_given() -> None:
    function = Counted(lambda x: float(np.cosh(x - 1).sum()))
    found = distnum.differentiate(function, np.ones(50), h=1e-4)
    assert function.calls == 101 + 1 + 4
    assert found.success
    assert np.all(np.abs(found.grad) <= found.error)
    assert np.all(found.error < 1e-7)


def test_a_given_step_that_is_too_large_is_still_named() -> None:
    with pytest.warns(DerivativeWarning, match="20 STEP"):
        found = distnum.differentiate(lambda x: float((np.exp(x) - x).sum()), np.zeros(20), h=0.05)
    assert np.all(np.abs(found.grad) <= found.error)


def test_parameters_smaller_than_their_step_are_no_exception() -> None:
    function = Counted(lambda x: 1 + float(np.cosh(x).sum()))
    found = distnum.differentiate(function, np.full(10, 1e-9))
    assert function.calls == 21 + 1 + 4
    assert found.success
    assert np.all(np.abs(found.grad - 1e-9) <= found.error)


def test_unless_the_function_varies_over_their_size() -> None:
    x = np.full(20, 3e-9)
    narrow = 1e-13 * (np.arange(20) == 7)
    found = distnum.differentiate(lambda x: float((x**2 + narrow * np.arctan(1e8 * x)).sum()), x)
    true = 2 * x + narrow * 1e8 / (1 + (1e8 * x) ** 2)
    assert np.all(np.abs(found.grad - true) <= np.maximum(found.error, 0.01 * true))


def test_kinks_at_a_minimum_are_found() -> None:
    def kinks(x: Any) -> float:
        return float(x @ x + np.abs(x[3]) - np.abs(x[7]) + np.maximum(x[11], 0))

    with pytest.warns(DerivativeWarning, match="3 KINK"):
        found = distnum.differentiate(kinks, np.zeros(20))
    assert np.flatnonzero(found.status == Status.KINK).tolist() == [3, 7, 11]
    assert not found.grad[found.status == Status.OK].any()


def test_no_coordinate_is_moved_over_a_bound() -> None:
    lowest = []

    def square(x: Any) -> float:
        lowest.append(x.min())
        return float((x - 1) @ (x - 1))

    found = distnum.differentiate(square, np.ones(8), bounds=(1 - 1e-5, 5))
    assert min(lowest) >= 1 - 1e-5
    assert np.all(np.abs(found.grad) <= found.error)


def test_a_noisy_function_is_not_settled_so() -> None:
    random = np.random.default_rng(0)
    with pytest.warns(DerivativeWarning, match="different values for the same point"):
        found = distnum.differentiate(lambda x: float(x @ x) + 1e-4 * random.standard_normal(), np.zeros(8))
    assert (found.status == Status.NOISE).sum() >= 6
