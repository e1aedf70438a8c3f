from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distnum.differentiation.judgment.judging import Verdict, compared, judge
from distnum.differentiation.judgment.precision import round_off
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.stencils.schemes import get_scheme
from distnum.differentiation.stencils.stencil import stencil_at
from distnum.differentiation.stencils.steps import step_sizes


def judged(
    f: Callable[[Any], Any], x: Any, scheme: str = "central", order: int | None = None, **options: Any
) -> Verdict:
    """The verdict on a function at ``x`` by the stencil alone."""
    x = np.atleast_1d(np.asarray(x))
    chosen = get_scheme(scheme, order)
    stencil = stencil_at(chosen, x, step_sizes(chosen, x, **options))
    base = np.atleast_1d(f(x))

    def at(index: int, value: Any) -> Any:
        moved = x.astype(np.result_type(x, value))
        moved[index] = value
        return np.atleast_1d(f(moved))

    values = np.array([[at(i, value) for i, value in enumerate(row)] for row in stencil.values])
    return judge(stencil, base, values, round_off(base, values, stencil.offsets, x))


@pytest.mark.parametrize(
    ("order", "dtype"),
    [(2, np.float64), (4, np.float64), (6, np.float64), (8, np.float64), (2, np.float32), (4, np.float32)],
)
@pytest.mark.parametrize("f", [np.sin, np.exp, np.sqrt, lambda x: 1 / (1 + x**2), lambda x: 3 * x, lambda x: x**2])
def test_smooth_functions_are_settled(f: Callable[[Any], Any], dtype: Any, order: int) -> None:
    verdict = judged(f, np.array([0.7], dtype), order=order)
    assert verdict.settled.all()
    assert verdict.status[0, 0] == Status.OK


@pytest.mark.parametrize("scheme", ["forward", "backward", "central"])
def test_lost_changes_are_not_settled(scheme: str) -> None:
    for f in (lambda x: 1e10 + x, lambda x: 1e13 + np.exp(x), lambda x: 0 * x + 3.0, lambda x: np.round(x, 4)):
        assert not judged(f, 0.7123, scheme).settled.any()


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_bent_functions_are_not_settled(order: int) -> None:
    for f in (abs, np.heaviside, lambda x: 1 / x, lambda x: np.exp(1e6 * x), lambda x: np.log(x)):
        with np.errstate(all="ignore"):
            verdict = judged(lambda x, f=f: f(x, 1.0) if f is np.heaviside else f(x), 1e-9, order=order)
        assert not verdict.settled.any()


def test_a_minimum_that_is_seen_is_settled_from_order_4_on() -> None:
    """With two points a minimum looks like a kink."""
    for f in (np.cosh, lambda x: x**2, lambda x: 100 + x**2):
        assert not judged(f, 0.0).settled.any()
        verdict = judged(f, 0.0, order=4)
        assert verdict.settled.all()
        assert abs(verdict.derivative[0, 0]) <= verdict.error[0, 0]


def test_zeros_of_jacobians_are_settled() -> None:
    def sparse(x: Any) -> Any:
        return np.array([x[0] - 0.237, x[1] ** 2 - 0.5, np.sin(x[2]), 7.25, 0.0])

    verdict = judged(sparse, [1.0, 2.0, 3.0])
    assert verdict.settled.all()
    assert (verdict.status == Status.OK).all()


def test_zeros_that_rounding_may_hide_are_not_settled() -> None:
    def rounded(x: Any) -> Any:
        return np.array([x[0] ** 2, float(np.float32(0.123456789) + np.float32(1e-4) * np.float32(x[0]))])

    assert judged(rounded, 0.7).settled.tolist() == [[True, False]]

    def decimal(x: Any) -> Any:
        return np.round([np.sin(x[0]), 0.345678 + 0.01 * x[0]], 6)

    assert not judged(decimal, 0.7).settled.any()


def test_a_coordinate_that_changes_nothing_is_unchanged() -> None:
    verdict = judged(lambda x: np.array([x[0], x[0] ** 2]), [1.0, 2.0])
    assert verdict.status.tolist() == [[Status.OK] * 2, [Status.UNCHANGED] * 2]
    assert verdict.settled.tolist() == [[True] * 2, [False] * 2]


def test_missing_values_are_failures() -> None:
    verdict = judged(lambda x: np.array([x[0], np.nan if x[0] > 1 else 1.0]), 1.0)
    assert verdict.status.tolist() == [[Status.OK, Status.FAILED]]
    assert np.isnan(verdict.derivative[0, 1])
    assert np.isnan(verdict.error[0, 1])


def test_the_complex_step_is_settled_unless_the_imaginary_part_is_lost() -> None:
    verdict = judged(lambda x: np.exp(x) + 1e10, 0.7, "complex")
    assert verdict.settled.all()
    assert abs(verdict.derivative[0, 0] - np.exp(0.7)) <= verdict.error[0, 0]
    assert judged(lambda x: x.real + 0j, 0.7, "complex").status[0, 0] == Status.UNCHANGED


def test_a_coordinate_is_judged_by_its_own_values() -> None:
    x = np.array([0.1, 0.3, 0.7])
    scheme = get_scheme("central")
    stencil = stencil_at(scheme, x, step_sizes(scheme, x))

    def f(x: Any) -> Any:
        return np.stack([np.sin(x), np.abs(x - 0.3), np.round(x**2, 6), 1e10 + x], axis=-1)

    base, values = f(np.array(0.3)), f(stencil.values)
    together = judge(stencil, base, values, round_off(base, values, stencil.offsets, x))
    for index in range(3):
        row = np.array([index])
        level = round_off(base, values[:, row], stencil.offsets[:, row], x[row])
        alone = judge(stencil.take(row), base, values[:, row], level)
        for name in ("derivative", "error", "status", "h", "settled"):
            np.testing.assert_array_equal(getattr(together, name)[row], getattr(alone, name))


def test_a_given_step_is_compared_with_a_better_one() -> None:
    one = np.ones((1, 1))
    good = Verdict(one, 1e-6 * one, np.array([[Status.OK]], np.uint8), one, one > 0)
    for derivative, status in ((1.0, Status.OK), (1.005, Status.OK), (1.1, Status.STEP), (0.0, Status.STEP)):
        given = Verdict(derivative * one, 1e-9 * one, np.array([[Status.NOISE]], np.uint8), one, one < 0)
        verdict = compared(given, good)
        assert verdict.status[0, 0] == status
        assert verdict.derivative[0, 0] == derivative
        assert abs(derivative - 1) <= verdict.error[0, 0]
