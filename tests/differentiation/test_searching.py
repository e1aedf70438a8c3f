"""Derivatives of functions that defeat the default step: right, or marked, and with few evaluations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import Status

H = 6.055454452393343e-06  # default step of the central difference at 1 in double precision
f32 = np.float32


def differentiate(f: Callable[[Any], Any], x: Any, **options: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return distnum.differentiate(f, np.atleast_1d(np.asarray(x)), **options)


# Name, function, point, derivative there.
RIGHT: list[tuple[str, Callable[[Any], Any], Any, Any]] = [
    ("1e10 + x", lambda x: 1e10 + x[0], 0.5, 1.0),
    ("1e10 + sin", lambda x: 1e10 + np.sin(x[0]), 0.5, np.cos(0.5)),
    ("(1e10 + sin) - 1e10", lambda x: (1e10 + np.sin(x[0])) - 1e10, 0.7, np.cos(0.7)),
    ("1e13 + exp", lambda x: 1e13 + np.exp(x[0]), 0.5, np.exp(0.5)),
    ("round to 6 decimals", lambda x: np.round(np.sin(x[0]), 6), 0.7, np.cos(0.7)),
    ("round to 6 decimals, small", lambda x: np.round(0.01 * np.sin(x[0]), 6), 0.7, 0.01 * np.cos(0.7)),
    ("round to 4 decimals", lambda x: np.round(np.exp(x[0]), 4), 0.7, np.exp(0.7)),
    ("5 digits of text", lambda x: float(f"{np.sin(x[0]) * 123.4:.5g}"), 0.7, 123.4 * np.cos(0.7)),
    ("float32 inside", lambda x: float(np.sin(f32(x[0])) + f32(1)), 0.7, np.cos(0.7)),
    ("float32 inside, small derivative", lambda x: float(f32(1) + f32(1e-3) * f32(x[0])), 0.7, 1e-3),
    ("rounded argument", lambda x: np.round(x[0] * 1e5) / 1e5, 0.7123456, 1.0),
    ("log near 0", lambda x: np.log(x[0]), 1e-8, 1e8),
    ("log very near 0", lambda x: np.log(x[0]), 1e-300, 1e300),
    ("sqrt near 0", lambda x: np.sqrt(x[0]), 1e-8, 0.5e4),
    ("1/x near 0", lambda x: 1 / x[0], 1e-8, -1e16),
    ("square near 0", lambda x: x[0] ** 2, 1e-8, 2e-8),
    ("log at 1e-5", lambda x: np.log(x[0]), 1e-5, 1e5),
    ("fast oscillation", lambda x: np.sin(1e6 * x[0]), 0.3, 1e6 * np.cos(3e5)),
    ("oscillation", lambda x: np.sin(8e3 * x[0]), 0.3, 8e3 * np.cos(2.4e3)),
    ("steep", lambda x: np.exp(100 * x[0]), 0.5, 100 * np.exp(50)),
    ("narrow tanh", lambda x: np.tanh(1e8 * (x[0] - 1)), 1.0 + 2.0**-28, 1e8 / np.cosh(1e8 * 2.0**-28) ** 2),
    ("narrow square root", lambda x: np.sqrt(x[0] ** 2 + 1e-18), 0.0, 0.0),
    ("step within the stencil", lambda x: float(x[0] > 1 + 3e-6) + x[0] ** 2, 1.0, 2.0),
    ("relu near 0", lambda x: max(0.0, x[0]), 1e-7, 1.0),
    ("minimum", lambda x: (x[0] - 1) ** 2, 1.0, 0.0),
    ("minimum of 1", lambda x: 1 + (x[0] - 1) ** 2, 1.0, 0.0),
    ("minimum of 100", lambda x: 100 + (x[0] - 1) ** 2, 1.0, 0.0),
    ("near a minimum", lambda x: 1 + (x[0] - 1) ** 2, 1.0 + 1e-7, 2e-7),
    ("flat minimum", lambda x: x[0] ** 4, 0.0, 0.0),
    ("flat minimum of 1", lambda x: 1 + x[0] ** 4, 0.0, 0.0),
    ("inflection", lambda x: 1 + x[0] ** 3, 0.0, 0.0),
    ("Rosenbrock's minimum", lambda x: float(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2), [1.0, 1.0], [0.0, 0.0]),
    ("large x", lambda x: np.log(x[0]), 1e20, 1e-20),
    ("small x", lambda x: 3 * x[0], 1e-300, 3.0),
    ("large values", lambda x: 1e300 * np.sin(x[0]), 0.7, 1e300 * np.cos(0.7)),
    ("small values", lambda x: 1e-300 * np.sin(x[0]), 0.7, 1e-300 * np.cos(0.7)),
    ("subnormal values", lambda x: 1e-310 * np.sin(x[0]), 0.7, 1e-310 * np.cos(0.7)),
    ("parabola", lambda x: 2 * x[0] ** 2 - 3 * x[0] + 1, 4.0, 13.0),
    ("values on the right only", lambda x: np.exp(x[0]) if x[0] >= 1 else np.nan, 1.0, np.e),
    ("values on the left only", lambda x: np.exp(x[0]) if x[0] <= 1 else np.nan, 1.0, np.e),
    ("values to a tenth of the step", lambda x: np.exp(x[0]) if x[0] >= 1 - H / 10 else np.nan, 1.0, np.e),
]


@pytest.mark.parametrize("order", [2, 4, 6, 8])
@pytest.mark.parametrize(("function", "x", "derivative"), [case[1:] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_hard_functions_come_out_right_or_marked(
    function: Callable[[Any], Any], x: Any, derivative: Any, order: int
) -> None:
    result = differentiate(function, x, order=order)
    settled = np.isin(result.status, (Status.OK, Status.ONE_SIDED))
    error = np.abs(result.jac - derivative)
    assert (error[settled] <= np.maximum(1e-3 * np.abs(derivative), 3 * result.error)[settled]).all(), result
    if order == 2:
        assert settled.all(), result
    # Besides: x once more, and a line of nine points that shows the noise.
    assert result.n_evals <= 2 + 9 + (order + 6) * result.jac.size


@pytest.mark.parametrize("scheme", ["central", "forward", "backward"])
@pytest.mark.parametrize(("function", "x", "derivative"), [case[1:] for case in RIGHT[:9]])
def test_rounded_values_are_found_in_one_sided_schemes_and_single_precision(
    scheme: str, function: Callable[[Any], Any], x: Any, derivative: Any
) -> None:
    result = differentiate(function, x, scheme=scheme)
    if np.isin(result.status, (Status.OK, Status.ONE_SIDED)).all():
        assert np.abs(result.jac - derivative) <= max(0.02 * abs(derivative), 3 * float(result.error[0]))
    single = differentiate(function, np.float32(x), scheme=scheme)
    if np.isin(single.status, (Status.OK, Status.ONE_SIDED)).all():
        assert np.abs(single.jac - derivative) <= max(0.1 * abs(derivative), 3 * float(single.error[0]))


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(
    "u",
    [
        0.0,
        0.01,
        0.05,
        0.1,
        0.105,
        0.107,
        0.108,
        0.109,
        0.11,
        0.12,
        0.2,
        0.25,
        1 / 3,
        0.5,
        2 / 3,
        0.9,
        -0.1,
        -1 / 3,
        -0.9,
    ],
)
def test_kinks_within_the_step_are_found_wherever_they_are(u: float, order: int) -> None:
    """Also at a third of the step, where the slopes differ half as much at half the step, as those of a parabola."""
    result = differentiate(lambda x: 2 + abs(x[0] - 1 - u * H) / 2 + x[0] ** 2, 1.0, order=order)
    if u == 0:
        assert result.status[0] == Status.KINK
        assert np.isnan(result.error[0])
        np.testing.assert_allclose(np.ravel(result.slopes), [1.5, 2.5], rtol=1e-3)
    else:
        assert result.status[0] == Status.OK
        assert abs(result.jac[0] - (2 - 0.5 * np.sign(u))) < 1e-3


@pytest.mark.parametrize(
    ("function", "x", "status"),
    [
        (lambda x: abs(x[0]), 0.0, Status.KINK),
        (lambda x: max(0.0, x[0]), 0.0, Status.KINK),
        (lambda x: 1 + 1e-4 * abs(x[0]), 0.0, Status.KINK),
        (lambda x: float(x[0] >= 1) + x[0] ** 2, 1.0, Status.JUMP),
        (lambda x: float(x[0] > 1 + 3e-6), 1.0, Status.JUMP),
        (lambda x: 3.0, 1.0, Status.UNCHANGED),
        (lambda x: 1.0 if x[0] == 1 else np.nan, 1.0, Status.FAILED),
    ],
)
@pytest.mark.parametrize("order", [2, 4])
def test_what_has_no_derivative_says_so(function: Callable[[Any], Any], x: float, status: Status, order: int) -> None:
    result = differentiate(function, x, order=order, on_error="one-sided")
    assert result.status[0] == status
    assert not result.success


def test_rounding_to_a_grid_that_is_neither_binary_nor_decimal_is_found_in_a_search() -> None:
    result = differentiate(lambda x: np.round(np.sin(x[0]) * 3e5) / 3e5, 0.7)
    assert result.status[0] == Status.OK
    assert abs(result.jac[0] - np.cos(0.7)) <= max(3 * result.error[0], 1e-3)


def test_noise_is_found_without_being_stated() -> None:
    """But for a chance of some per cent, at which noise looks smooth."""
    rng = np.random.default_rng(0)
    wrong = 0
    for number in range(200):
        level = 1e-3 if number % 2 else 1e-5
        result = differentiate(lambda x, level=level: np.sin(x[0]) + level * rng.standard_normal(), 0.7, f0=np.sin(0.7))
        wrong += bool(
            result.status[0] == Status.OK and abs(result.jac[0] - np.cos(0.7)) > max(0.2, 3 * result.error[0])
        )
    assert wrong <= 4


def test_every_output_has_its_own_step() -> None:
    x = 0.7
    result = differentiate(lambda x: np.array([1e10 + x[0], np.sin(1e4 * x[0]), np.round(x[0] ** 2, 6), 3 * x[0]]), x)
    assert (result.status == Status.OK).all()
    np.testing.assert_allclose(result.jac[:, 0], [1, 1e4 * np.cos(1e4 * x), 2 * x, 3], rtol=1e-3)
    assert result.n_evals <= 10


def test_healthy_coordinates_cost_the_stencil_only() -> None:
    x = np.linspace(0.5, 2, 7)
    for function in (
        lambda x: float(np.sum(np.exp(-x) + np.sin(3 * x))),
        lambda x: float(x @ x),
        lambda x: float(np.arange(1, 8) @ x),
        lambda x: np.array([x[0] - 0.237, x[1] ** 2 - 0.5, 3.0 * x[2], x[3] - 7.25, x[4] * x[5], np.exp(x[6])]),
        lambda x: 1e300 * float(np.sum(x**3)),
    ):
        result = differentiate(function, x)
        assert result.n_evals == 15
        assert result.success
        assert differentiate(function, x, order=4).n_evals == 29
        assert differentiate(function, x, scheme="forward").n_evals == 8


def test_a_minimum_costs_two_more_evaluations_a_coordinate_at_most() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 5)), rng.standard_normal(30)
    best = np.linalg.lstsq(a, b, rcond=None)[0]
    result = differentiate(lambda x: float(np.sum((a @ x - b) ** 2)), best)
    assert result.success
    assert result.n_evals <= 12 + 10 + 9  # with x once more, and a line of nine points that shows the noise
    assert np.abs(result.jac).max() < 1e-7


def test_searches_stay_within_bounds_and_on_the_side_asked_for() -> None:
    seen = []

    def function(x: Any) -> float:
        seen.append(float(x[0]))
        return 1e10 + np.sin(x[0])

    result = differentiate(function, 0.5, bounds=(0.5, 0.6))
    assert min(seen) >= 0.5
    assert max(seen) <= 0.6
    assert result.status[0] in (Status.ONE_SIDED, Status.NOISE)
    seen.clear()
    differentiate(function, 0.5, scheme="forward")
    assert min(seen) >= 0.5


def test_the_other_outputs_of_a_failed_coordinate_are_kept() -> None:
    result = differentiate(lambda x: np.array([x[0] ** 2, np.nan if x[0] != 1 else 0.0]), 1.0, on_error="one-sided")
    assert result.status.tolist() == [[Status.OK], [Status.FAILED]]
    assert abs(result.jac[0, 0] - 2) < 1e-6
