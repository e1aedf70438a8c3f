"""The numerical cases of optimagic's tests of ``first_derivative``, which its package does not ship.

https://github.com/optimagic-dev/optimagic/tree/main/tests/optimagic/differentiation: functions, points and tolerances
of ``test_derivatives.py`` and, with derivatives by hand in the place of jax, ``test_compare_derivatives_with_jax.py``.
Left out are second derivatives, private functions, and the tables of steps. The data of the logit and probit models are
made here, as those of the tests are not shipped either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optimagic
import pytest
from numpy.testing import assert_array_almost_equal
from optimagic.examples import numdiff_functions

import distnum

# A derivative that comes with a warning must be right all the same.
pytestmark = pytest.mark.filterwarnings("ignore::distnum.DerivativeWarning")
every_method = pytest.mark.parametrize("method", ["forward", "backward", "central"])


def first_derivative(
    func: Callable[..., Any],
    params: Any,
    *,
    bounds: Any = None,
    func_kwargs: Any = None,
    method: str = "central",
    step_size: Any = None,
    f0: Any = None,
    unpacker: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """optimagic's ``first_derivative``, its options translated to those of distnum."""

    def unpacked(params: Any, **kwargs: Any) -> Any:
        return unpacker(func(params, **kwargs))

    limits = None if bounds is None else (bounds.lower, bounds.upper)
    options: dict[str, Any] = {"bounds": limits, "kwargs": func_kwargs, "scheme": method, "h": step_size, "f0": f0}
    return distnum.jacobian(unpacked, params, **options)


@pytest.fixture
def choices() -> dict[str, Any]:
    """Binary choices of 30 people with 3 properties and a constant."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(30, 3)), np.ones(30)])
    return {"x": x, "y": rng.integers(0, 2, 30)}


PARAMS = np.array([0.5, -1.0, 0.3, 0.1])


@every_method
@pytest.mark.parametrize("model", ["logit", "probit"])
def test_the_jacobian_of_a_likelihood(choices: dict[str, Any], model: str, method: str) -> None:
    function = getattr(numdiff_functions, f"{model}_loglikeobs")
    bounds = optimagic.Bounds(lower=np.full(4, -np.inf), upper=np.full(4, np.inf))
    found = first_derivative(
        function, PARAMS, func_kwargs=choices, method=method, bounds=bounds, f0=function(PARAMS, **choices)
    )
    expected = getattr(numdiff_functions, f"{model}_loglikeobs_jacobian")(PARAMS, **choices)
    assert_array_almost_equal(found, expected, decimal=6)


@every_method
@pytest.mark.parametrize("model", ["logit", "probit"])
def test_the_gradient_of_a_likelihood(choices: dict[str, Any], model: str, method: str) -> None:
    function = getattr(numdiff_functions, f"{model}_loglike")
    found = first_derivative(function, PARAMS, func_kwargs=choices, method=method)
    expected = getattr(numdiff_functions, f"{model}_loglike_gradient")(PARAMS, **choices)
    assert_array_almost_equal(found, expected, decimal=4)


@every_method
def test_the_derivative_of_a_number(method: str) -> None:
    # optimagic demands the exact number of its central difference, which is one by chance of rounding.
    assert first_derivative(lambda x: x**2, 3.0, method=method) == pytest.approx(6, abs=1e-6)


def test_the_gradient_that_optimagic_extrapolates() -> None:
    found = first_derivative(lambda x: np.sin(x[0]) + np.cos(x[1]) + x[2] - x[2], np.ones(3))
    assert_array_almost_equal(found, [np.cos(1), -np.sin(1), 0])


def test_the_jacobian_that_optimagic_extrapolates() -> None:
    found = first_derivative(lambda x: np.array([np.sin(x[0]) + np.cos(x[1]), np.exp(x[2])]), np.ones(3))
    assert_array_almost_equal(found, [[np.cos(1), -np.sin(1), 0], [0, 0, np.exp(1)]])


@dataclass
class Output:
    value: float
    message: str


def test_values_within_other_objects() -> None:
    found = first_derivative(lambda x: Output(x @ x, "success"), np.ones(3), unpacker=lambda output: output.value)
    assert_array_almost_equal(found, 2 * np.ones(3))


def squared(params: Any) -> Any:
    return params["a"] @ params["a"] + 2 * params["b"]


def test_steps_in_the_form_of_the_parameters() -> None:
    params = {"a": np.array([1, 2, 3]), "b": 4}
    found = first_derivative(squared, params, step_size=params)
    assert np.allclose(found["a"], [2, 4, 6])
    assert np.allclose(found["b"], 2)


def test_bounds_in_the_form_of_the_parameters() -> None:
    bounds = optimagic.Bounds(lower={"a": np.array([0, 1, 2]), "b": 3}, upper={"b": 5, "a": np.array([2, 3, 4])})
    found = first_derivative(squared, {"a": np.array([1, 2, 3]), "b": 4}, bounds=bounds)
    assert np.allclose(found["a"], [2, 4, 6])
    assert np.allclose(found["b"], 2)


A, B = np.array([1.0, 2, 3]), np.arange(9.0).reshape(3, 3)
OF_A = np.array([[1, 1, 1], [6, 3, 2]])  # derivatives of the sum and of the product of A

FORMS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "number to number": (lambda p: p**2, 1.0, 2.0),
    "array to number": (lambda p: p @ p, A, 2 * A),
    "dict to number": (lambda p: p["a"] * p["b"], {"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}),
    "arrays to number": (
        lambda p: p["a"].sum() * p["b"].prod(),
        {"a": A, "b": B},
        {"a": np.zeros(3), "b": np.where(B == 0, 6 * np.arange(1.0, 9).prod(), 0)},
    ),
    "array to array": (lambda p: np.array([p.sum(), p.prod()]), A, OF_A),
    "dict to array": (
        lambda p: p["b"] * np.array([p["a"].sum(), p["a"].prod()]),
        {"a": A, "b": 2.0},
        {"a": 2 * OF_A, "b": np.array([6, 6])},
    ),
    # optimagic's function returns a list with a dict in it; distnum takes dicts of numbers and arrays.
    "dict to dict": (
        lambda p: {"first": p["b"] * p["a"].sum(), "c": 0.0, "d": p["b"] * p["a"].prod()},
        {"a": A, "b": 2.0},
        {
            "first": {"a": 2 * OF_A[0], "b": 6.0},
            "c": {"a": np.zeros(3), "b": 0.0},
            "d": {"a": 2 * OF_A[1], "b": 6.0},
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_nested_parameters_and_values(form: str) -> None:
    function, params, expected = FORMS[form]
    assert_same(first_derivative(function, params), expected)


def assert_same(found: Any, expected: Any) -> None:
    """Assert that two trees are equal up to five decimals, as optimagic does."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    else:
        assert np.shape(found) == np.shape(expected)
        assert_array_almost_equal(found, expected, decimal=5)
