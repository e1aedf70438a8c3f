"""Coordinates that change nothing cost a few evaluations in all; a change that rounding hides is not taken for zero."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import DerivativeWarning, Status

N = 1000
X = np.ones(N)


def quiet(function: Callable[..., Any], x: Any, **options: Any) -> distnum.Derivative:
    """``differentiate`` of a function of which some entries may not be settled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        return distnum.differentiate(function, x, **options)


def unused(x: Any) -> float:
    return float(x[3]) ** 2


def undefined_below(x: Any) -> float:
    return float(x[3]) ** 2 if (x > 0.5).all() else math.nan


def test_padding_costs_four_evaluations_and_no_warning() -> None:
    for options, n_points in (({}, 2), ({"order": 4}, 4), ({"scheme": "forward"}, 1), ({"h": 1e-6}, 2)):
        found = distnum.differentiate(unused, X, **options)
        assert found.success
        assert found.n_evals <= n_points * N + 1 + 1 + 4
        assert found.grad[3] == pytest.approx(2.0, abs=1e-5)
        assert np.flatnonzero(found.status != Status.UNCHANGED).tolist() == [3]
        assert not np.delete(found.grad, 3).any()
        assert f"{N - 1} of {N:,} coordinates do not change the function's value" in found.message


def test_adaptive_steps_are_sought_for_the_others_only() -> None:
    found = distnum.differentiate(unused, X, h="adaptive")
    assert found.n_evals <= 2 * N + 1 + 1 + 4 + 6
    assert found.success


def test_columns_of_a_jacobian() -> None:
    found = distnum.differentiate(lambda x: np.array([x[3], x[3] * x[4], 5.0]), X)
    assert found.n_evals <= 2 * N + 1 + 1 + 4
    assert (found.status[:, [3, 4]] == Status.OK).all()
    assert (np.delete(found.status, [3, 4], axis=1) == Status.UNCHANGED).all()


def test_entries_of_a_pattern() -> None:
    pattern = np.tri(N, k=0) - np.tri(N, k=-3)

    def function(x: Any) -> Any:
        value = 2 * x
        value[1:] += x[:-1]
        return value

    found = distnum.differentiate(function, X, sparsity=pattern)
    assert found.success
    assert found.n_evals == 1 + 3 * 2 + 2  # none is unused; the third diagonal is zero
    cut = distnum.differentiate(lambda x: function(np.where(np.arange(N) < N // 2, x, 1.0)), X, sparsity=pattern)
    assert cut.n_evals <= 1 + 3 * 2 + 2 + 4
    assert cut.success
    assert (cut.status.toarray()[:, N // 2 :] == Status.UNCHANGED)[pattern[:, N // 2 :] != 0].all()
    assert cut.jac.toarray() == pytest.approx(distnum.jacobian(function, X) * (np.arange(N) < N // 2), abs=1e-8)


@pytest.mark.parametrize(
    ("hides", "derivative"),
    [
        (lambda z: 1e13 + z, 1.0),
        (lambda z: round(z / 100, 6), 0.01),
        (lambda z: float(np.float32(1) + np.float32(1e-3) * np.float32(z)), 1e-3),
        (lambda z: (1e13 + math.sin(z)) - 1e13, math.cos(1)),
    ],
)
@pytest.mark.parametrize("scheme", ["central", "forward", "backward"])
def test_a_change_that_rounding_hides_is_found_among_a_thousand(
    hides: Callable[[float], float], derivative: float, scheme: str
) -> None:
    found = quiet(lambda x: hides(float(x[700])), X, scheme=scheme)
    assert found.status[700] in (Status.OK, Status.NOISE)
    assert abs(found.grad[700] - derivative) <= max(3 * found.error[700], 0.05 * derivative)
    assert (np.delete(found.status, 700) == Status.UNCHANGED).all()
    assert found.n_evals <= 2 * N + 250


def test_changes_that_rounding_hides_are_found_beside_one_that_does_not() -> None:
    def function(x: Any) -> float:
        return float(x[0]) ** 2 + round(float(x[500]), 3) + ((1e14 + float(x[900])) - 1e14)

    found = quiet(function, X)
    assert found.grad[[0, 500, 900]] == pytest.approx([2, 1, 1], rel=0.1)
    assert (np.delete(found.status, [0, 500, 900]) == Status.UNCHANGED).all()


def test_if_all_are_hidden_all_are_searched() -> None:
    found = quiet(lambda x: 1e13 + float(np.sin(x).sum()), X[:200])
    assert np.all(found.status != Status.UNCHANGED)
    assert np.abs(found.grad - math.cos(1)).max() < 0.05
    assert found.n_evals <= 200 * 8 + 2 + 9 + 150


def dead_units(x: Any) -> float:
    """A network of which the first half of the units are activated by no sample, but nearly by some."""
    weights, biases = x[:80].reshape(4, 20), x[80:]
    inputs = np.linspace(0.1, 1, 60).reshape(15, 4)
    return float((np.maximum(inputs @ weights + biases, 0) ** 2).sum())


@pytest.mark.parametrize("options", [{}, {"order": 4}, {"scheme": "forward"}])
def test_units_that_are_not_activated_cost_some_ten_evaluations(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).uniform(0.1, 1, 100)
    x[80:90] = -3.5 - np.linspace(0.1, 1, 10)  # moved by 0.4 of their size, most are activated
    found = distnum.differentiate(dead_units, x, **options)
    dead = np.concatenate([np.tile(np.arange(20) < 10, 4), np.arange(20) < 10])
    assert found.success
    assert (found.status == np.where(dead, Status.UNCHANGED, Status.OK)).all()
    k = {"forward": 1}.get(options.get("scheme", ""), options.get("order", 2))
    assert found.n_evals <= k * 100 + 2 + 4 + 8


def test_a_function_that_is_constant_nearby_only_is_warned_of() -> None:
    with pytest.warns(DerivativeWarning, match="No coordinate changes the function's value near x"):
        distnum.gradient(lambda x: float(np.maximum(x - 1.25, 0).sum()), X[:20])


def test_no_bound_is_crossed_and_one_sided_schemes_stay_on_their_side() -> None:
    low, high = X - 1e-3, X + np.linspace(0, 0.1, N)
    seen = [X, X]

    def function(x: Any) -> float:
        seen[0], seen[1] = np.minimum(seen[0], x), np.maximum(seen[1], x)
        return unused(x)

    assert distnum.differentiate(function, X, bounds=(low, high)).success
    assert (seen[0] >= low).all()
    assert (seen[1] <= high).all()
    assert (seen[1] - seen[0] > 1e-4).sum() >= N - 1
    seen[:] = X, X
    assert distnum.differentiate(function, X, scheme="backward").success
    assert (seen[1] == X).all()


def test_points_without_a_value_leave_the_rest_to_a_search() -> None:
    found = distnum.differentiate(undefined_below, X, on_error="one-sided")
    assert found.success
    assert np.flatnonzero(found.status != Status.UNCHANGED).tolist() == [3]


class TestComplexStep:
    def test_unused(self) -> None:
        found = distnum.differentiate(lambda x: x[3] ** 2, X, scheme="complex")
        assert found.success
        assert found.n_evals <= N + 2 + 4
        assert np.flatnonzero(found.status != Status.UNCHANGED).tolist() == [3]

    def test_a_minimum(self) -> None:
        found = distnum.differentiate(lambda x: ((x - 1) ** 2 * np.arange(N)).sum(), X, scheme="complex")
        assert found.success
        assert (found.status == Status.OK).all()
        assert not found.grad.any()

    def test_a_function_that_drops_the_imaginary_part(self) -> None:
        with pytest.warns(DerivativeWarning, match=r"x\[1\] changes the value, but not by an imaginary step"):
            found = distnum.differentiate(lambda x: x[0] ** 2 + x[1].real, X[:2], scheme="complex")
        assert found.status.tolist() == [Status.OK, Status.NOISE]
