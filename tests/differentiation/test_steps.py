"""Steps: the defaults, the steps asked for, the steps that floating-point numbers allow, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum import InputError
from distnum.differentiation.stencils.schemes import SCHEMES, get_scheme
from distnum.differentiation.stencils.steps import checked_bounds, default_h, representable_h, smallest_h, step_sizes

CENTRAL = SCHEMES["central"]
EPS = float(np.finfo(np.float64).eps)
X = np.array([0.0, 0.5, -2.0, 3e5])


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


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-9, 1.0)), min_size=1, max_size=5))
def test_steps_may_differ_by_coordinate(pairs) -> None:
    x, h = np.array(pairs).T
    one_by_one = [representable_h(x[j : j + 1], float(h[j]))[0] for j in range(len(x))]
    assert representable_h(x, h).tolist() == one_by_one


def test_default_step_depends_on_scheme_and_dtype() -> None:
    assert default_h(SCHEMES["forward"], np.float64) == pytest.approx(2.0**-26)
    assert default_h(SCHEMES["central"], np.float32) == pytest.approx(2.0 ** (-23 / 3))
    assert default_h(SCHEMES["central4"], np.float64) > default_h(SCHEMES["central"], np.float64)
    assert default_h(get_scheme("complex"), np.float64) == EPS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["forward", "backward2", "central", "central4", "central8", "complex"])
def test_default_steps_of_all_coordinates_are_those_of_each(name, dtype) -> None:
    scheme, x = get_scheme(name), X.astype(dtype)
    assert step_sizes(scheme, x).tolist() == [default_h(scheme, dtype, float(value)) for value in x]


def test_h_is_absolute_and_rel_step_is_relative() -> None:
    assert step_sizes(CENTRAL, X, h=0.25).tolist() == [0.25] * 4
    assert step_sizes(CENTRAL, X, h=X + 3).tolist() == (X + 3).tolist()
    assert step_sizes(CENTRAL, X, rel_step=0.5).tolist() == [0.5, 0.5, 1.0, 1.5e5]
    assert step_sizes(CENTRAL, X, rel_step=[1, 2, 3, 4]).tolist() == [1, 2, 6, 12e5]
    assert step_sizes(CENTRAL, X, rel_step=0.5, x_scale=1e-3).tolist() == [5e-4, 0.25, 1.0, 1.5e5]
    assert step_sizes(CENTRAL, X, rel_step=0.5, x_scale=[2, 3, 4, 5]).tolist() == [1.0, 1.5, 2.0, 1.5e5]


def test_the_scale_of_a_bounded_coordinate_is_at_most_the_width_of_its_bounds() -> None:
    x = np.array([1e-4, 1e-4, 1e-4, 0.0])
    lower, upper = [0.0, 0.0, -np.inf, -5.0], [1e-3, np.inf, 1e-3, 5.0]
    steps = step_sizes(CENTRAL, x, rel_step=0.5, lower=lower, upper=upper)
    assert steps == pytest.approx([5e-4, 0.5, 0.5, 0.5])
    assert step_sizes(CENTRAL, x, rel_step=0.5, x_scale=1, lower=lower, upper=upper).tolist() == [0.5] * 4


def test_noise_takes_the_place_of_rounding_where_it_is_larger() -> None:
    x = np.ones(3)
    assert step_sizes(CENTRAL, x, noise=1e-6) == pytest.approx(1e-2)
    assert step_sizes(SCHEMES["forward"], x, noise=[0, 1e-20, 1e-4]) == pytest.approx([2.0**-26, 2.0**-26, 1e-2])
    assert step_sizes(CENTRAL, x.astype(np.float32), noise=1e-12).tolist() == [default_h(CENTRAL, np.float32)] * 3
    assert step_sizes(CENTRAL, x, noise=1e9).tolist() == [1.0] * 3
    assert step_sizes(CENTRAL, x, noise=0.1, rel_step=0.5).tolist() == [0.5] * 3
    assert step_sizes(get_scheme("complex"), x, noise=0.1).tolist() == [EPS] * 3


@pytest.mark.parametrize("option", ["h", "rel_step", "x_scale"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-3, np.nan, np.inf, -np.inf, [1, 1, 0, 1], [1, np.nan, 1, 1]])
def test_steps_that_are_not_positive_and_finite_are_refused(option, value) -> None:
    with pytest.raises(InputError, match=rf"^{option} is .*; it must be a finite number above 0\.$"):
        step_sizes(CENTRAL, X, **{option: value})


@pytest.mark.parametrize("option", ["h", "rel_step", "x_scale", "noise"])
@pytest.mark.parametrize("value", ["0.1", "adaptive", True, 1j, [None] * 4, ["1"] * 4, {"a": 1}])
def test_steps_that_are_not_numbers_are_refused(option, value) -> None:
    with pytest.raises(InputError, match=rf"^{option} is .*; it must be a finite number"):
        step_sizes(CENTRAL, X, **{option: value})


@pytest.mark.parametrize("option", ["h", "rel_step", "x_scale", "noise"])
@pytest.mark.parametrize("shape", [(1,), (3,), (5,), (4, 1), (0,)])
def test_steps_of_another_shape_are_refused(option, shape) -> None:
    with pytest.raises(InputError, match=rf"{option} has shape \({shape[0]},.*shape of x, \(4,\)"):
        step_sizes(CENTRAL, X, **{option: np.ones(shape)})


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf])
def test_a_noise_that_is_negative_or_not_finite_is_refused(value) -> None:
    with pytest.raises(InputError, match=r"^noise is .*; it must be a finite number of at least 0\.$"):
        step_sizes(CENTRAL, X, noise=value)


def test_messages_name_the_coordinate() -> None:
    with pytest.raises(InputError, match=r"^h is -1 for W\[2\]; "):
        step_sizes(CENTRAL, X, h=[1, 1, -1, -1], entry_name=lambda index: f"W[{index}]")


@pytest.mark.parametrize(("option", "value"), [("h", 1e-12), ("h", 1e-320), ("rel_step", 1e-17), ("rel_step", 1e-300)])
def test_a_given_step_that_vanishes_is_refused(option, value) -> None:
    with pytest.raises(InputError, match=rf"^{option} is {value:g}, which vanishes when added to x\[\d\] = .*float64"):
        step_sizes(CENTRAL, X, **{option: value})


def test_a_given_step_whose_inverse_overflows_is_refused() -> None:
    with pytest.raises(InputError, match=r"^h is 9\.99989e-321, which vanishes when added to x\[0\] = 0 in float64"):
        step_sizes(CENTRAL, np.zeros(1), h=1e-320)
    assert step_sizes(CENTRAL, np.zeros(1), lower=0, upper=1e-300).tolist() == [smallest_h(np.float64)]


def test_a_step_that_float32_cannot_add_is_refused() -> None:
    x = np.ones(2, np.float32)
    assert step_sizes(CENTRAL, x, h=1e-6).tolist() == [1e-6] * 2
    with pytest.raises(InputError, match=r"^h is 1e-09, which vanishes when added to x\[0\] = 1 in float32"):
        step_sizes(CENTRAL, x, h=1e-9)


def test_the_complex_step_may_be_far_below_rounding() -> None:
    assert step_sizes(get_scheme("complex"), X, h=1e-200).tolist() == [1e-200] * 4


def test_h_and_rel_step_together_are_refused() -> None:
    with pytest.raises(InputError, match="h and rel_step are both given"):
        step_sizes(CENTRAL, X, h=1e-3, rel_step=1e-3)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    st.sampled_from(["forward", "central", "central8", "complex"]),
    st.floats(0, 10),
)
def test_default_steps_are_positive_finite_and_do_not_vanish(x, name, noise) -> None:
    scheme, at = get_scheme(name), np.array(x)
    for steps in (step_sizes(scheme, at), step_sizes(scheme, at, noise=noise)):
        assert (steps >= smallest_h(np.float64)).all()
        assert np.isfinite(steps).all()
        if not scheme.imaginary:
            with np.errstate(over="ignore"):
                assert (representable_h(at, steps) > 0).all()


def test_bounds_are_inward_numbers_of_the_dtype_of_x() -> None:
    x = np.zeros(3, np.float32)
    low, high = checked_bounds(x, -0.1, [0.1, np.inf, 1.0])
    assert low.dtype == high.dtype == np.float32
    assert (low.astype(np.float64) >= -0.1).all()
    assert (high.astype(np.float64) <= [0.1, np.inf, 1.0]).all()
    assert high.tolist() == [np.nextafter(np.float32(0.1), np.float32(0)), np.finfo(np.float32).max, 1.0]


def test_x_on_a_bound_that_float32_rounds_is_on_the_bound() -> None:
    x = np.array([0.1], np.float32)  # 0.1000000015
    assert checked_bounds(x, 0, 0.1)[1].tolist() == x.tolist()
    with pytest.raises(InputError, match="outside"):
        checked_bounds(np.nextafter(x, np.float32(1)), 0, 0.1)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (1.0, None, r"^p\[0\] is 0, outside its bounds \[1, 1\.79769e\+308\]\.$"),
        (None, [9, 9, 9, 8], r"^p\[3\] is 300000, outside its bounds .*, 8\]\.$"),
        (
            [-1, 0.5, -3, 0],
            [1, 0.5, 1, 1e6],
            r"^p\[1\] is fixed by its bounds \[0\.5, 0\.5\]; leave it out with indices\.$",
        ),
        (np.nan, None, "the lower bounds hold NaN"),
        (None, [1, 1, 1, np.nan], "the upper bounds hold NaN"),
        ("0", None, "the lower bound is '0'; it must be a number"),
        (None, [1, 2], r"the upper bounds have shape \(2,\).*the shape of x, \(4,\)"),
        (2, 1, "outside its bounds"),
    ],
)
def test_bounds_that_cannot_be_used_are_refused(lower, upper, message) -> None:
    with pytest.raises(InputError, match=message):
        checked_bounds(X, lower, upper, entry_name=lambda index: f"p[{index}]")
