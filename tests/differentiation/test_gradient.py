"""Derivatives as plain values, as functions for optimizers, along directions, and estimates of cost and noise."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize, rosen, rosen_der

import distnum
from distnum import DerivativeWarning, InputError


def test_gradients_have_the_form_of_x() -> None:
    assert distnum.gradient(lambda x: x**3, 2.0) == pytest.approx(12)
    assert type(distnum.gradient(lambda x: x**3, 2)) is float
    x = {"a": 2.0, "b": [np.ones((2, 2), order="F"), np.float64(3.0)], 7: (1.0,)}
    found = distnum.gradient(lambda x: x["a"] * x["b"][0].sum() * x["b"][1] * x[7][0], x)
    assert found["b"][0].round(6).tolist() == [[6, 6], [6, 6]]
    assert (round(found["a"], 6), round(found[7][0], 6)) == (12, 24)
    assert distnum.gradient(lambda x: x.sum(), np.ones(2, np.float32)).dtype == np.float32


def test_jacobians_have_the_shape_of_f_and_x() -> None:
    x = np.arange(1.0, 7.0).reshape(2, 3)
    found = distnum.jacobian(lambda x: np.stack([x[:, 0] * x[0, 0] + x[:, 2], x[:, 1]]), x)
    assert found.shape == (2, 2, 2, 3)
    assert found[1, 0].round(6).tolist() == [[0, 1, 0], [0, 0, 0]]
    by_name = distnum.jacobian(lambda x: {"s": x["a"] + x["b"].sum(), "v": 2 * x["b"]}, {"b": np.ones(2), "a": 1.0})
    assert by_name["v"]["b"].round(6).tolist() == [[2, 0], [0, 2]]
    assert round(by_name["s"]["a"], 6) == 1


def test_a_gradient_of_several_numbers_is_refused() -> None:
    with pytest.raises(InputError, match=r"fun returned shape \(3,\), but a gradient needs one number; use jacobian"):
        distnum.gradient(lambda x: x, np.ones(3))


def test_unknown_options_are_named_with_the_nearest() -> None:
    for call in (distnum.gradient, lambda f, x, **options: distnum.gradient_of(f, **options)):
        with pytest.raises(InputError, match=r"there is no option 'shceme'; did you mean 'scheme'\?"):
            call(lambda x: 1.0, np.ones(2), shceme="central")


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "SLSQP", "CG"])
def test_minimize_runs_with_our_gradients(method: str) -> None:
    x = np.array([-1.2, 1.0, 0.8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        ours = minimize(rosen, x, jac=distnum.gradient_of(rosen), method=method)
        both = minimize(distnum.value_and_gradient(rosen), x, jac=True, method=method)
    exact = minimize(rosen, x, jac=rosen_der, method=method)
    assert ours.x == pytest.approx(exact.x, abs=1e-4)
    assert both.x == pytest.approx(exact.x, abs=1e-4)


def test_least_squares_passes_its_arguments_on() -> None:
    t = np.linspace(0, 1, 20)
    measured = 2 * np.exp(-3 * t)

    def residuals(x: Any, t: Any, measured: Any) -> Any:
        return x[0] * np.exp(-x[1] * t) - measured

    found = least_squares(residuals, [1.0, 1.0], jac=distnum.jacobian_of(residuals), args=(t, measured))
    assert found.x == pytest.approx([2, 3])


def test_functions_for_optimizers_warn_once() -> None:
    gradient = distnum.gradient_of(lambda x: abs(x[0]))
    with pytest.warns(DerivativeWarning, match="KINK"):
        gradient(np.zeros(1))
    assert gradient(np.zeros(1)) == 0  # pytest turns warnings into errors


def test_a_direction_costs_two_evaluations() -> None:
    calls = []

    def function(x: Any) -> Any:
        calls.append(1)
        return np.array([x @ x, x[0] * x[1]])

    found = distnum.directional(function, np.array([1.0, 2.0]), [3.0, -1.0])
    assert found == pytest.approx([2, 5])
    assert len(calls) == 2
    with pytest.raises(InputError, match="scheme is given, but a direction takes only h"):
        distnum.directional(function, np.ones(2), np.ones(2), scheme="forward")


def test_an_estimate_is_right_for_slow_functions() -> None:
    def slow(x: Any) -> float:
        time.sleep(0.02)
        return float(x @ x)

    found = distnum.estimate(slow, np.ones(10), order=4)
    assert found.evaluations == 41
    assert found.seconds_each >= 0.02
    assert found.seconds == pytest.approx(41 * found.seconds_each)
    assert 41 >= found.workers > 1


def test_the_noise_of_a_function_is_estimated() -> None:
    rng = np.random.default_rng(0)
    found = distnum.estimate_noise(lambda x: float(x @ x) + 1e-6 * rng.standard_normal(), np.ones(3))
    assert found.success
    assert 2e-7 < found.level < 5e-6
    steady = distnum.estimate_noise(lambda x: float(np.sin(x).sum()), np.ones(3))
    assert not steady.success or steady.level < 1e-14
