"""Checks of gradients that were written by hand: right ones pass, wrong entries are named with a hint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distnum
from distnum import InputError

X = np.linspace(0.1, 2, 6)


def fun(x: Any) -> float:
    return float(np.sin(x).sum() * x[0])


def grad(x: Any) -> Any:
    gradient = np.cos(x) * x[0]
    gradient[0] += np.sin(x).sum()
    return gradient


@pytest.mark.parametrize("mode", ["auto", "full", "fast"])
def test_a_right_gradient_passes(mode: str) -> None:
    check = distnum.check_gradient(fun, grad, X, mode=mode)
    assert check
    assert check.ok
    assert check.n_wrong == 0


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda g: -g, "wrong sign"),
        (lambda g: 2 * g, "2 times too large"),
        (lambda g: g / 6, "6 times too small"),
        (lambda g: 0 * g, "zero in the given gradient"),
    ],
)
def test_the_usual_mistakes_are_told(mistake: Any, hint: str) -> None:
    check = distnum.check_gradient(fun, lambda x: mistake(grad(x)), X)
    assert not check
    assert check.n_wrong == 6
    assert hint in repr(check)


def test_a_transposed_array_is_told() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4))
    check = distnum.check_gradient(lambda w: float((weights * w**2).sum()), 2 * weights.T, {"W": np.ones((4, 4))}["W"])
    assert "x looks transposed" in check.hint


def test_one_wrong_small_entry_beside_a_large_one_fails() -> None:
    x = np.array([1.0, 1.0])
    check = distnum.check_gradient(lambda x: 1e6 * x[0] ** 2 + 1e-2 * x[1] ** 2, np.array([2e6, 2.002e-2]), x)
    assert (check.n_wrong, check.worst) == (1, "x[1]")
    assert check.entries[0].given == 2.002e-2
    assert distnum.check_gradient(lambda x: 1e6 * x[0] ** 2 + 1e-2 * x[1] ** 2, np.array([2e6, 2e-2]), x)


def test_the_right_gradient_of_zero_passes() -> None:
    assert distnum.check_gradient(lambda x: float(x @ x), np.zeros(3), np.zeros(3))
    assert not distnum.check_gradient(lambda x: float(x @ x), np.full(3, 1e-3), np.zeros(3))


def test_float32_has_its_own_tolerance() -> None:
    x = X.astype(np.float32)
    assert distnum.check_gradient(fun, grad, x)
    assert not distnum.check_gradient(fun, lambda x: 1.02 * grad(x), x)


@pytest.mark.parametrize(("given", "right"), [(0.0, True), (-1.0, True), (0.7, True), (1.5, False), (-3.0, False)])
def test_a_kink_is_told_from_a_mistake(given: float, right: bool) -> None:
    check = distnum.check_gradient(lambda x: float(np.abs(x).sum()), np.array([given, 1.0]), np.array([0.0, 2.0]))
    assert bool(check) is right
    assert check.entries[0].verdict == ("kink" if right else "wrong")
    if right:
        assert check.entries[0].slopes == pytest.approx((-1, 1))


def test_fast_mode_finds_one_wrong_entry_among_many() -> None:
    rng = np.random.default_rng(1)
    weights, x = rng.normal(size=40_000), rng.normal(size=40_000)
    gradient = np.cos(x) * weights
    assert distnum.check_gradient(lambda x: float(np.sin(x) @ weights), gradient, x, mode="fast")
    gradient[22_302] += 1e-3
    check = distnum.check_gradient(lambda x: float(np.sin(x) @ weights), gradient, x, mode="fast")
    assert (check.ok, check.worst) == (False, "x[22302]")
    assert check.n_evals <= 45


def test_a_function_of_several_numbers_is_refused() -> None:
    for mode in ("full", "fast"):
        with pytest.raises(InputError, match="a gradient is checked for one number"):
            distnum.check_gradient(lambda x: x, np.ones(3), np.ones(3), mode=mode)
