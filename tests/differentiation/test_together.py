"""Minima are told from kinks by moving all coordinates together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import rosen

import distnum
from distnum import DerivativeWarning, Status


@pytest.mark.parametrize("n", [3, 10, 200])
def test_a_minimum_costs_a_few_evaluations_for_all_coordinates(n: int) -> None:
    found = distnum.differentiate(rosen, np.ones(n))
    assert found.n_evals == 2 * n + 1 + 5 or n == 3
    assert np.all(np.abs(found.grad) <= found.error)
    assert np.all(found.error < 1e-5)


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
