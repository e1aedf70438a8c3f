"""Schemes: exact on polynomials, of the order they claim, and divided by the step really taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum import InputError
from distnum.differentiation.schemes import SCHEMES, get_scheme
from distnum.differentiation.steps import default_h, representable_h


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_weights_on_hand_made_numbers(scheme) -> None:
    # f(x) = x at x = 0: the changes are the offsets themselves, and the derivative is one.
    changes = np.array(scheme.offsets, dtype=float) * 0.5
    assert scheme.combine(changes, 0.5) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_exact_on_polynomials_up_to_its_order(scheme) -> None:
    for power in range(2, scheme.order + 1):
        changes = np.array([(1.0 + o) ** power - 1.0 for o in scheme.offsets])
        assert scheme.combine(changes, 1.0) == pytest.approx(power, rel=1e-13)
    beyond = scheme.order + 1
    changes = np.array([(1.0 + o) ** beyond - 1.0 for o in scheme.offsets])
    assert scheme.combine(changes, 1.0) != pytest.approx(beyond, rel=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_error_falls_with_the_claimed_power_of_h(scheme) -> None:
    def error(h: float) -> float:
        changes = np.array([np.exp(o * h) - 1.0 for o in scheme.offsets])
        return abs(float(scheme.combine(changes, h)) - 1.0)

    assert np.log2(error(0.04) / error(0.02)) == pytest.approx(scheme.order, abs=0.1)


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1.0), st.sampled_from([np.float32, np.float64]))
def test_both_sides_of_the_step_are_representable(x: float, h: float, dtype: type) -> None:
    at = np.array([x], dtype)
    step = representable_h(at, h)
    assert step.dtype == dtype
    for sign in (1, -1):
        point = (at + sign * step)[0]
        exact = np.longdouble(at[0]) + sign * np.longdouble(step[0])
        if abs(at[0]) >= 2 * h:
            assert np.longdouble(point) == exact
        else:
            assert abs(np.longdouble(point) - exact) <= 4 * np.finfo(dtype).eps * np.longdouble(dtype(h))


@given(st.floats(-10, 10), st.floats(1e-6, 0.1))
def test_step_taken_is_near_the_step_wished_for(x: float, h: float) -> None:
    step = representable_h(np.array([x]), h)[0]
    assert step == pytest.approx(h, abs=1e-14)


def test_a_step_that_vanishes_when_added_to_the_parameter_is_zero() -> None:
    assert representable_h(np.array([1e30]), 1e-4)[0] == 0


def test_default_step_depends_on_scheme_and_dtype() -> None:
    assert default_h(SCHEMES["forward"], np.float64) == pytest.approx(2.0**-26)
    assert default_h(SCHEMES["central"], np.float32) == pytest.approx(2.0 ** (-23 / 3))
    assert default_h(SCHEMES["central4"], np.float64) > default_h(SCHEMES["central"], np.float64)


@pytest.mark.parametrize("name", ["centre", "", None, 3])
def test_unknown_scheme_is_refused(name) -> None:
    with pytest.raises(InputError, match=r"scheme is .*forward, backward, central, central4"):
        get_scheme(name)
