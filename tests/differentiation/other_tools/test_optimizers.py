"""optimagic optimizes with derivatives on warm workers, and evaluates its own batches on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optimagic
import pytest

import distnum
from tests.differentiation.other_tools.adopting import noting

START = {"rate": 1.0, "scales": np.array([1.0, 0.5])}
TRUE = {"rate": 3.0, "scales": np.array([2.0, -1.0])}
AT = np.linspace(0, 1, 20)


def model(params: Any) -> Any:
    a, b = params["scales"]
    return a * np.exp(-params["rate"] * AT) + b * AT


def residuals(params: Any) -> Any:
    return model(params) - model(TRUE)


def cost(params: Any) -> float:
    return float(residuals(params) @ residuals(params))


@pytest.fixture(scope="module")
def workers(ray_session: None) -> Iterator[distnum.Evaluator]:
    with distnum.Evaluator(2) as evaluator:
        yield evaluator


def assert_found(result: Any) -> None:
    assert result.success
    assert result.params["rate"] == pytest.approx(3, abs=1e-3)
    assert result.params["scales"] == pytest.approx(TRUE["scales"], abs=1e-3)


@pytest.mark.parametrize("together", [False, True])
def test_optimagic_minimizes_with_our_gradients(workers: distnum.Evaluator, together: bool) -> None:
    derivatives: dict[str, Any] = {"jac": distnum.gradient_of(cost, workers=workers)}
    if together:
        derivatives = {"fun_and_jac": distnum.value_and_gradient(cost, workers=workers)}
    assert_found(optimagic.minimize(cost, START, algorithm="scipy_lbfgsb", **derivatives))


def test_optimagic_fits_with_our_jacobians(workers: distnum.Evaluator) -> None:
    marked = optimagic.mark.least_squares(residuals)
    jac = optimagic.mark.least_squares(distnum.jacobian_of(residuals, workers=workers))
    assert_found(optimagic.minimize(marked, START, algorithm="scipy_ls_trf", jac=jac))


def test_optimagic_passes_its_arguments_on(workers: distnum.Evaluator) -> None:
    def distance(params: Any, to: float, power: float = 2) -> float:
        return float(abs(params["rate"] - to) ** power + np.sum((params["scales"] - TRUE["scales"]) ** power))

    options: dict[str, Any] = {"fun_kwargs": {"to": 3.0}, "jac_kwargs": {"to": 3.0}}
    for given in ({}, {"kwargs": {"power": 2}}):
        gradient = distnum.gradient_of(distance, workers=workers, **given)
        assert_found(optimagic.minimize(distance, START, algorithm="scipy_lbfgsb", jac=gradient, **options))


def test_optimagic_differentiates_on_our_workers(workers: distnum.Evaluator) -> None:
    calls: list[str] = []
    found = optimagic.first_derivative(cost, START, batch_evaluator=noting(calls, workers.batch_evaluator))
    assert calls == ["batch_evaluator"]
    ours = distnum.gradient(cost, START, workers=workers)
    assert found.derivative["rate"] == pytest.approx(ours["rate"], abs=1e-6)
    assert found.derivative["scales"] == pytest.approx(ours["scales"], abs=1e-6)


def test_optimagic_starts_from_many_points_on_our_workers(workers: distnum.Evaluator) -> None:
    lower, upper = ({"rate": rate, "scales": np.full(2, scale)} for rate, scale in ((0.1, -5.0), (9.0, 5.0)))
    # optimagic explores with joblib, in this process if n_cores is 1; each local optimization is one of our batch.
    calls: list[str] = []
    on_workers = noting(calls, workers.batch_evaluator)
    many = optimagic.MultistartOptions(n_samples=8, stopping_maxopt=2, batch_size=2, seed=0, batch_evaluator=on_workers)
    bounds = optimagic.Bounds(lower=lower, upper=upper)
    assert_found(optimagic.minimize(cost, START, algorithm="scipy_lbfgsb", bounds=bounds, multistart=many))
    assert calls
