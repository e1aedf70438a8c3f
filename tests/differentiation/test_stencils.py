"""Stencils: exact offsets, weights exact for polynomials, and bounds that are never crossed."""

from __future__ import annotations

from fractions import Fraction
from math import factorial, prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distnum import InputError
from distnum.differentiation.stencils.placing import lagrange_weights
from distnum.differentiation.stencils.schemes import SCHEMES, get_scheme
from distnum.differentiation.stencils.stencil import stencil_at
from distnum.differentiation.stencils.steps import representable_h, smallest_h, step_sizes

CENTRAL = SCHEMES["central"]
COMPLEX = get_scheme("complex")
REAL = [
    get_scheme(name, order)
    for name, orders in {"forward": (1, 2), "backward": (1, 2), "central": (2, 4, 6, 8)}.items()
    for order in orders
]
every_real_scheme = pytest.mark.parametrize("scheme", REAL, ids=lambda scheme: scheme.name)
EPS = float(np.finfo(np.float64).eps)

powers_of_ten = st.floats(-15, 15).map(lambda power: 10.0**power)
anywhere = st.one_of(
    st.floats(-1e3, 1e3),
    st.tuples(st.sampled_from([-1, 1]), powers_of_ten).map(np.prod),
    st.sampled_from([0.0, 1.0, -2.0]),
)
steps = st.floats(-18, 2).map(lambda power: 10.0**power)
rooms = st.one_of(st.just(0.0), st.floats(0, 12), st.floats(-20, 1).map(lambda power: 10.0**power), st.just(np.inf))


@st.composite
def problems(draw, bounded=True):
    """A scheme, x, steps and bounds in units of the steps or of |x|."""
    scheme, dtype = draw(st.sampled_from(REAL)), draw(st.sampled_from([np.float32, np.float64]))
    rows = draw(st.lists(st.tuples(anywhere, steps, st.booleans(), rooms, rooms), min_size=1, max_size=4))
    x = np.array([row[0] for row in rows], dtype)
    h = np.array([row[1] * (max(abs(float(row[0])), 1e-3) if row[2] else 1) for row in rows])
    if not bounded:
        return scheme, x, h, None, None
    lower, upper = x - h * [row[3] for row in rows], x + h * [row[4] for row in rows]
    fixed = lower >= upper
    return scheme, x, h, np.where(fixed, -np.inf, lower), np.where(fixed, np.inf, upper)


def exact(array) -> list[Fraction]:
    return [Fraction(float(value)) for value in array]


def check(stencil, scheme, x) -> None:
    """What holds for every stencil, in exact arithmetic."""
    k = scheme.order
    assert stencil.values.shape == stencil.offsets.shape == stencil.weights.shape == (k, len(x))
    assert stencil.values.dtype == x.dtype
    assert np.isfinite(stencil.values).all()
    assert (stencil.h >= smallest_h(x.dtype) / 2).all()
    assert (stencil.order == k).all()
    for j in range(len(x)):
        at = Fraction(float(x[j]))
        true = [value - at for value in exact(stencil.values[:, j])]
        assert stencil.offsets[:, j].tolist() == [float(offset) for offset in true]
        assert len({Fraction(0), *true}) == k + 1, "points coincide"
        assert stencil.h[j] == pytest.approx(float(min(abs(offset) for offset in true)), rel=3 * EPS)
        weights = exact(stencil.weights[:, j])
        for power in range(1, k + 1):  # the derivative of z ** power at z = 0
            terms = [weight * offset**power for weight, offset in zip(weights, true, strict=True)]
            assert abs(sum(terms) - (power == 1)) <= Fraction(100 * EPS) * sum(abs(term) for term in terms)
        total = sum(abs(weight) for weight in weights)
        assert stencil.noise_factor[j] == pytest.approx(float(total + abs(sum(weights))), rel=1e-9)
        assert stencil.noise_factor[j] >= 1 / stencil.h[j] / (k + 1)
        truncation = abs(prod(true)) / factorial(k + 1)
        if Fraction(1, 10**290) < truncation < 10**290:
            assert stencil.truncation_factor[j] == pytest.approx(float(truncation), rel=1e-9)


@given(problems(bounded=False))
def test_offsets_are_exact_and_weights_are_exact_for_polynomials(problem) -> None:
    scheme, x, h, _, _ = problem
    stencil = stencil_at(scheme, x, h)
    check(stencil, scheme, x)
    assert not stencil.sides.any()
    added = representable_h(x, h) > 0
    assert (stencil.h[added] <= 8 * np.maximum(h, np.spacing(np.abs(x)))[added]).all()


@given(problems())
def test_no_bound_is_crossed_and_the_order_is_kept(problem) -> None:
    scheme, x, h, lower, upper = problem
    least = 10 * scheme.order * np.maximum(np.spacing(np.abs(x)), smallest_h(x.dtype))
    room = np.maximum(x - lower, upper - x)
    assume((room > least).all())
    stencil = stencil_at(scheme, x, h, lower, upper)
    check(stencil, scheme, x)
    assert (stencil.values.astype(np.float64) >= lower).all()
    assert (stencil.values.astype(np.float64) <= upper).all()
    assert (stencil.h <= np.maximum(h, 10 * np.spacing(np.abs(x))) * (1 + 1e-6) + np.spacing(np.abs(x))).all()
    above, below = (stencil.offsets > 0).all(axis=0), (stencil.offsets < 0).all(axis=0)
    asked = np.sign(scheme.offsets[0]) if len({np.sign(offset) for offset in scheme.offsets}) == 1 else 0
    side = np.where(above, 1, np.where(below, -1, 0))
    assert (stencil.sides == np.where(side == asked, 0, side)).all()


@every_real_scheme
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_away_from_bounds_the_scheme_is_used_as_it_is(scheme, dtype) -> None:
    x = np.array([1.1, -3.3, 700.5, 1e8, -1e-3, 1.7e300 if dtype is np.float64 else 1e30], dtype)
    h = step_sizes(scheme, x)
    stencil = stencil_at(scheme, x, h, x - 1.0 - 9 * h, None)
    assert stencil.sides.tolist() == [0] * 6
    step = representable_h(x, h)
    assert (stencil.values == [x + offset * step for offset in scheme.offsets]).all()
    tolerance = 1e-4 if dtype is np.float32 else 1e-8  # a point beyond a power of two is rounded
    fractions = np.array(scheme.numerators)[:, None] / scheme.denominator
    assert np.abs(stencil.weights * stencil.h / fractions - 1).max() < tolerance


@every_real_scheme
def test_a_point_that_is_rounded_beyond_a_power_of_two_has_its_own_weight(scheme) -> None:
    x = np.array([2 - 2.0**-52, -(4 - 3 * 2.0**-51), 1 + 2.0**-52])
    stencil = stencil_at(scheme, x, np.full(3, 1e-5))
    check(stencil, scheme, x)
    multiples = np.array(scheme.offsets)[:, None] * stencil.h
    assert (stencil.offsets[:, 2] == multiples[:, 2]).all()
    if scheme.name in ("central4", "forward2"):
        assert (stencil.offsets != multiples).any(axis=0).any()


@pytest.mark.parametrize("name", ["forward", "backward", "central", "central4", "forward2"])
def test_the_derivative_has_the_bits_of_the_scheme(name) -> None:
    scheme = get_scheme(name)
    x = np.random.default_rng(0).uniform(1.1, 1.9, 200)
    stencil = stencil_at(scheme, x, step_sizes(scheme, x))
    values, base = np.sin(stencil.values)[:, :, None], np.sin(x[:1] * 0 + 0.7)
    changes = values[:, :, 0] - base if scheme.uses_base else values[:, :, 0]
    combined = scheme.combine(changes, stencil.h)
    regular = (stencil.coefficients == np.array(scheme.numerators)[:, None]).all(axis=0)
    assert regular.sum() > 100
    assert stencil.derivative(base, values)[regular, 0].tolist() == combined[regular].tolist()


@every_real_scheme
def test_derivatives_of_several_outputs_at_some_coordinates(scheme) -> None:
    x = np.array([0.0, 0.3, 1.0, -0.7])
    stencil = stencil_at(scheme, x, step_sizes(scheme, x), [0, -1, -1, -1], [5, 5, 1, 5])
    base = np.array([3.0, -2.0])
    values = np.random.default_rng(1).normal(size=(scheme.order, 4, 2))
    expected = np.einsum("kc,kcm->cm", stencil.weights, values - base)
    derivative = stencil.derivative(base, values)
    assert derivative == pytest.approx(expected, rel=1e-9)
    for columns in (slice(1, 3), np.array([3, 0])):
        assert (stencil.derivative(base, values[:, columns], columns) == derivative[columns]).all()
        part = stencil.take(columns)
        assert (part.derivative(base, values[:, columns]) == derivative[columns]).all()
        assert part.x.tolist() == x[columns].tolist()
        assert part.truncation_factor.tolist() == stencil.truncation_factor[columns].tolist()


def test_values_of_float32_are_combined_in_float64() -> None:
    stencil = stencil_at(get_scheme("forward2"), np.ones(1), np.full(1, 0.25))
    base, values = np.array([1e-3], np.float32), np.array([3.1, 5.7], np.float32)[:, None, None]
    derivative = stencil.derivative(base, values)
    assert derivative.dtype == np.float64
    assert derivative[0, 0] == stencil.derivative(base.astype(np.float64), values.astype(np.float64))[0, 0]


def test_complex_values_of_real_variables() -> None:
    x = np.array([0.5, 1.5])
    stencil = stencil_at(CENTRAL, x, step_sizes(CENTRAL, x))
    derivative = stencil.derivative(np.exp(1j * x[:1]), np.exp(1j * stencil.values)[:, :, None])
    assert derivative[:, 0] == pytest.approx(1j * np.exp(1j * x), rel=1e-9)


def test_points_without_a_value_give_nan_for_their_coordinate_only() -> None:
    x = np.ones(3)
    stencil = stencil_at(CENTRAL, x, step_sizes(CENTRAL, x))
    values = stencil.values[:, :, None] ** 2
    values[1, 1] = np.nan
    values[:, 2] = np.inf
    derivative = stencil.derivative(np.ones(1), values)[:, 0]
    assert derivative[0] == pytest.approx(2)
    assert np.isnan(derivative[1:]).all()


def test_a_large_constant_does_not_spoil_the_sums_of_high_orders() -> None:
    x = np.array([1.3])
    for order in (6, 8):
        scheme = get_scheme("central", order)
        stencil = stencil_at(scheme, x, np.full(1, 0.125))
        values = 2.0**40 + stencil.values * 2.0**-12  # exact in float64, but not times the numerators
        values = np.round(values * 2.0**12) / 2.0**12
        changes = zip(exact(stencil.weights[:, 0]), exact(values[:, 0]), strict=True)
        derivative = stencil.derivative(np.full(1, 2.0**40), values[:, :, None])[0, 0]
        assert derivative == pytest.approx(float(sum(weight * (value - 2**40) for weight, value in changes)), rel=1e-14)


# --- near bounds ------------------------------------------------------------------


def in_steps(stencil, h=1.0) -> list[list[float]]:
    return (stencil.offsets / h).T.round(9).tolist()


def test_the_choice_near_a_bound_has_the_least_error() -> None:
    def offsets(name: str, room: float) -> list[float]:
        return in_steps(stencil_at(get_scheme(name), np.zeros(1), np.ones(1), -room, 100))[0]

    assert offsets("central", 1.0) == [1, -1]
    assert offsets("central", 0.5) == [0.5, -0.5]  # half the step has twice the noise; one side only has four times
    assert offsets("central", 0.21) == [0.21, -0.21]
    assert offsets("central", 0.19) == [1, 2]
    assert offsets("central", 0.0) == [1, 2]
    assert offsets("central4", 1.9) == [0.95, -0.95, 1.9, -1.9]
    assert offsets("central4", 1.0) == [0.5, -0.5, 1, -1]
    assert offsets("central4", 0.0) == [1, 2, 3, 4]
    assert offsets("backward", 0.9) == [1]
    assert offsets("backward2", 1.5) == [1, -1]
    assert offsets("backward2", 0.0) == [1, 2]


def test_sides_tell_where_bounds_made_it_one_sided() -> None:
    x, h = np.zeros(3), np.full(3, 0.1)
    bounds = [0, -9, -9], [9, 0, 9]
    for name, sides in (
        ("central", [1, -1, 0]),
        ("central8", [1, -1, 0]),
        ("forward", [0, -1, 0]),
        ("backward2", [1, 0, 0]),
    ):
        assert stencil_at(get_scheme(name), x, h, *bounds).sides.tolist() == sides
    assert stencil_at(SCHEMES["central4"], x, h, -0.1, 9).sides.tolist() == [0] * 3  # one point is left below


@every_real_scheme
@pytest.mark.parametrize("below", [0.0, 0.7, 1.2])
def test_near_a_bound_the_error_falls_with_the_same_power_of_h(scheme, below) -> None:
    def error(h: float) -> float:
        stencil = stencil_at(scheme, np.zeros(1), np.array([h]), -below * h, 3.1 * h if below else None)
        return abs(float(stencil.derivative(np.zeros(1), np.expm1(stencil.values)[:, :, None])[0, 0]) - 1)

    h = 0.1 * scheme.order if below else 0.2  # small, but truncation is larger than rounding
    assert np.log2(error(h) / error(h / 2)) == pytest.approx(scheme.order, abs=0.6)


@every_real_scheme
def test_a_narrow_interval_gets_smaller_steps(scheme) -> None:
    for x in (0.0, 1.0, -1e5, 1e-5):
        at = np.array([x])
        width = max(abs(x) * 1e-9, 1e-12)
        for share in (0.0, 0.1, 0.5, 1.0):
            lower, upper = x - share * width, x + (1 - share) * width
            stencil = stencil_at(scheme, at, step_sizes(scheme, at, rel_step=0.1), lower, upper)
            check(stencil, scheme, at)
            assert (stencil.values >= lower).all()
            assert (stencil.values <= upper).all()
            assert stencil.h[0] >= width / (6 * scheme.order)


def test_an_interval_without_room_is_refused_by_name() -> None:
    x = np.array([0.0, 1.0])
    with pytest.raises(InputError, match=r"^the bounds of b\[1\] = 1 are 1 and 1\.0000000000000002; .* in float64\.$"):
        stencil_at(CENTRAL, x, np.ones(2), [-1, 1], [1, np.nextafter(1, 2)], lambda index: f"b[{index}]")


def test_a_point_outside_its_bounds_or_fixed_is_refused() -> None:
    with pytest.raises(InputError, match=r"^x\[1\] is 5, outside its bounds \[0, 2\]\.$"):
        stencil_at(CENTRAL, np.array([1.0, 5.0]), np.ones(2), 0, 2)
    with pytest.raises(InputError, match=r"^x\[0\] is fixed by its bounds \[1, 1\]; leave it out with indices\.$"):
        stencil_at(CENTRAL, np.array([1.0]), np.ones(1), 1, 1)
    with pytest.raises(InputError, match="outside its bounds"):
        stencil_at(COMPLEX, np.array([1.0]), np.ones(1), 2, 3)


@every_real_scheme
def test_steps_that_vanish_are_made_longer(scheme) -> None:
    x = np.array([1.0, np.nextafter(1, 0), -1e20, 3.0])
    stencil = stencil_at(scheme, x, np.full(4, 1e-18))
    check(stencil, scheme, x)
    assert (stencil.h <= 9 * np.spacing(np.abs(x))).all()


@every_real_scheme
def test_points_do_not_overflow(scheme) -> None:
    largest = np.finfo(np.float64).max
    x = np.array([largest, -largest, 0.0, 1e308])
    for h in (1e290, 1e307, largest):
        check(stencil_at(scheme, x, np.full(4, h)), scheme, x)
    x = np.array([0, 1, -1e38], np.float32)
    check(stencil_at(scheme, x, np.full(3, 1e300)), scheme, x)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=2, unique=True), st.sampled_from([1, -1]))
def test_two_unequal_steps_give_the_formula_of_order_2(distances, sign) -> None:
    # The formula of Dakota (DakotaModel.cpp, FDstep1 and FDstep2) for two points on either side or on one.
    h1, h2 = distances[0], sign * distances[1]
    coefficients, h = lagrange_weights(np.array([[h1], [h2]]))
    expected = np.array([h2**2, -(h1**2)]) / (h1 * h2 * (h2 - h1))
    assert (coefficients / h)[:, 0] == pytest.approx(expected, rel=1e-9)


# --- the complex step -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_complex_step_is_exact_up_to_rounding(dtype) -> None:
    x = np.array([0.0, 0.5, -2.0, 30.0], dtype)
    stencil = stencil_at(COMPLEX, x, step_sizes(COMPLEX, x), -2, 30)
    assert stencil.values.dtype == np.result_type(dtype, np.complex64)
    assert (stencil.values.real == x).all()
    assert (stencil.values.imag == stencil.offsets).all()
    derivative = stencil.derivative(np.zeros(1, dtype), np.sin(stencil.values)[:, :, None])
    assert derivative.dtype == np.float64
    assert derivative[:, 0] == pytest.approx(np.cos(x.astype(np.float64)), rel=8 * float(np.finfo(dtype).eps))
    assert not stencil.noise_factor.any()
    assert not stencil.sides.any()
    assert not stencil.uses_base.any()
    assert stencil.order.tolist() == [2] * 4


def test_the_complex_step_needs_a_function_of_complex_numbers() -> None:
    x = np.ones(1)
    stencil = stencil_at(COMPLEX, x, step_sizes(COMPLEX, x))
    with pytest.raises(InputError, match=r"fun returned real numbers \(float64\) where x is complex; .*Take 'central'"):
        stencil.derivative(np.ones(1), np.ones((1, 1, 1)))
    with pytest.raises(InputError, match=r"fun\(x\) is complex; .*Take 'central'"):
        stencil.derivative(np.full(1, 1 + 2j), np.ones((1, 1, 1), complex))
    assert np.isnan(stencil.derivative(np.ones(1), np.full((1, 1, 1), np.nan))).all()


def test_many_coordinates_are_the_same_as_few() -> None:
    n = 20_000  # more than are treated together
    random = np.random.default_rng(2)
    x = random.uniform(0, 1, n)
    x[::3], x[1::7] = 0, 1
    scheme = get_scheme("central", 4)
    whole = stencil_at(scheme, x, step_sizes(scheme, x, lower=0, upper=1), 0, 1)
    for j in (0, 1, 2, 9_000, n - 1):
        one = stencil_at(scheme, x[j : j + 1], step_sizes(scheme, x[j : j + 1], lower=0, upper=1), 0, 1)
        assert (one.values == whole.values[:, [j]]).all()
        assert (one.weights == whole.weights[:, [j]]).all()
        assert one.h == whole.h[j]
