"""Activations: values, changes without cancellation, kink distances, Taylor series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum import InputError
from distnum.networks.activations import ACTIVATIONS, FAMILIES, PLAIN, get_activation

NUMBERS = {"leaky_relu": "0.3", "quantize": "7"}


def all_names() -> Iterator[str]:
    """Every activation; those with a parameter also with a value other than the default."""
    for entry in ACTIVATIONS:
        name, takes_number, _ = entry.partition("[")
        yield name
        if takes_number:
            yield f"{name}:{NUMBERS[name]}"


NAMES = list(all_names())
SMOOTH = ["tanh", "sigmoid", "softplus"]
EXTENDED = np.finfo(np.longdouble).eps < 1e-18


def test_every_activation_is_listed() -> None:
    # The tests here go through this list.
    assert sorted(name for name in NAMES if ":" not in name) == sorted([*PLAIN, *FAMILIES])


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("relu", -2.0, 0.0),
        ("relu", 2.0, 2.0),
        ("leaky_relu:0.1", -2.0, -0.2),
        ("sigmoid", 0.0, 0.5),
        ("softplus", 0.0, np.log(2.0)),
        ("step", 0.0, 0.0),
        ("step", 1e-300, 1.0),
        ("sign", -3.0, -1.0),
        ("quantize:3", 0.2, 0.0),
        ("quantize:3", 0.3, 0.5),
        ("quantize:3", 7.0, 1.0),
        ("quantize:3", -7.0, 0.0),
    ],
)
def test_known_values(name: str, at: float, value: float) -> None:
    assert get_activation(name).value(np.array([at]))[0] == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("name", NAMES)
@given(a=st.floats(-30, 30), d=st.floats(-40, 40))
def test_change_is_the_difference_of_values(name: str, a: float, d: float) -> None:
    f = get_activation(name)
    at, by = np.array([a]), np.array([d])
    expected = f.value(at + by) - f.value(at)
    assert f.change(at, by)[0] == pytest.approx(expected[0], abs=1e-13)


@pytest.mark.skipif(not EXTENDED, reason="longdouble is no wider than double on this machine")
@pytest.mark.parametrize("name", SMOOTH)
@given(a=st.floats(-15, 15), d=st.floats(1e-9, 1.0), sign=st.sampled_from([-1, 1]))
def test_small_changes_do_not_cancel(name: str, a: float, d: float, sign: int) -> None:
    f = get_activation(name)
    at, by = np.array([a]), np.array([sign * d])
    # The oracle itself cancels in extended precision, which limits its accuracy.
    wide = f.value(at.astype(np.longdouble) + by) - f.value(at.astype(np.longdouble))
    size = float(np.abs(f.value(at))[0]) * (1 + abs(a))
    assert abs(float(f.change(at, by)[0] - wide[0])) <= 1e-14 * abs(float(wide[0])) + 4e-19 * size


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMOOTH])
@given(a=st.floats(-3, 3), share=st.floats(-0.999, 0.999))
def test_an_activation_is_straight_within_the_kink_distance(name: str, a: float, share: float) -> None:
    f = get_activation(name)
    at = np.array([a])
    distance = float(min(f.kink_distance(at)[0], 1e3))
    by = np.array([share * distance])
    assert f.change(at, by)[0] == pytest.approx(float(f.slope(at)[0] * by[0]), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "step", "sign", "quantize:5"])
def test_an_activation_is_not_straight_beyond_the_kink_distance(name: str) -> None:
    f = get_activation(name)
    at = np.array([0.3])
    beyond = f.kink_distance(at) * 1.01
    off_line = [f.change(at, by)[0] != pytest.approx(float(f.slope(at)[0] * by[0])) for by in (beyond, -beyond)]
    assert any(off_line)


@pytest.mark.parametrize("name", NAMES)
def test_the_dtype_is_kept(name: str) -> None:
    f = get_activation(name)
    a, d = np.array([0.5, -0.5], np.float32), np.array([0.1, 2.0], np.float32)
    assert {f.value(a).dtype, f.change(a, d).dtype, f.slope(a).dtype, f.kink_distance(a).dtype} == {a.dtype}


@pytest.mark.parametrize(
    "name", ["rellu", "", "relu:2", "quantize:1", "quantize:2.5", "quantize:x", "leaky_relu:", "leaky_relu:2", None]
)
def test_unknown_activations_are_refused(name: Any) -> None:
    with pytest.raises(InputError, match="activation is"):
        get_activation(name)


@pytest.mark.skipif(not EXTENDED, reason="long double is no longer than double here")
@pytest.mark.parametrize("name", SMOOTH)
def test_the_taylor_series_adds_up_to_the_change(name: str) -> None:
    activation = get_activation(name)
    assert activation.taylor is not None
    a = np.linspace(-4, 4, 37)
    d = np.longdouble("0.01")
    change = activation.value(a.astype(np.longdouble) + d) - activation.value(a.astype(np.longdouble))
    taylor = activation.taylor(a, 9)
    assert taylor.shape == (9, 37)
    series = sum(taylor[k].astype(np.longdouble) * d ** (k + 1) for k in range(9))
    np.testing.assert_allclose(np.array(series / change, np.float64), 1, rtol=1e-12)
    assert activation.taylor(a.astype(np.float32), 3).dtype == np.float32
