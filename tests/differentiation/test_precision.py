from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distnum.differentiation.judgment.precision import round_off

H = 6.055454452393343e-06
EPS = float(np.finfo(np.float64).eps)


def noise_of(f: Callable[[Any], Any], x: Any = 0.7, h: float = H, noise: float | None = None) -> float:
    """Noise of a function of one number by its values at ``x`` and ``x`` plus and minus ``h``."""
    x = np.atleast_1d(np.asarray(x))
    moved = np.array([x + x.dtype.type(h), x - x.dtype.type(h)])
    values = np.array([[[f(point[0])]] for point in moved])
    base = np.array([f(x[0])])
    stated = None if noise is None else np.array([noise])
    level = round_off(base, values, moved.astype(np.float64) - x, x, stated)
    assert level.shape == (1, 1)
    return float(level[0, 0])


@pytest.mark.parametrize("f", [np.sin, np.exp, lambda x: 3 * x, lambda x: x**2, lambda x: 2.0, lambda x: 0.1])
def test_double_precision_is_a_few_units_in_the_last_place(f: Callable[[Any], Any]) -> None:
    assert EPS * abs(f(0.7)) <= noise_of(f) <= 4 * EPS * (abs(f(0.7)) + 1)


def test_rounding_is_seen_in_the_values() -> None:
    assert noise_of(lambda x: round(np.sin(x), 6)) == pytest.approx(5e-7)
    assert noise_of(lambda x: round(123.4 * np.sin(x), 4)) == pytest.approx(5e-5)
    assert noise_of(lambda x: float(f"{123.4 * np.sin(x):.7g}")) == pytest.approx(5e-6)
    assert noise_of(lambda x: float(np.float32(np.sin(x)))) >= 2.0**-26
    assert noise_of(lambda x: float(np.float16(np.sin(x))), h=1e-2) >= 2.0**-13
    assert noise_of(lambda x: (1e10 + np.sin(x)) - 1e10) >= np.spacing(1e10) / 2
    assert noise_of(lambda x: 1e10 + np.sin(x)) >= np.spacing(1e10)


def test_numbers_with_few_digits_are_no_sign_of_rounding() -> None:
    for x, h in ((1.0, 0.5), (0.1, 0.01), (2.0, 0.125), (3.0, 1e-6)):
        for f in (lambda x: x**2, lambda x: 3 * x, lambda x: x - 1, lambda x: 0.25 * x):
            assert noise_of(f, x, h) < 1e-12


def test_single_precision_of_the_argument_counts() -> None:
    assert noise_of(lambda x: float(x) ** 2, np.float32(0.7), 1e-2) >= np.finfo(np.float32).eps / 2


def test_stated_noise_counts_where_it_is_larger() -> None:
    assert noise_of(np.sin, noise=1e-3) == 1e-3
    assert noise_of(np.sin, noise=1e-30) == noise_of(np.sin)


def test_extreme_and_missing_values() -> None:
    assert noise_of(lambda x: 1e300 * np.sin(x)) == pytest.approx(1e300 * noise_of(np.sin), rel=0.1)
    assert 0 < noise_of(lambda x: 1e-320 * np.sin(x)) < 1e-320
    assert noise_of(lambda x: 0.0) > 0
    assert np.isfinite(noise_of(lambda x: np.sin(x) if x <= 0.7 else np.nan))
    assert noise_of(lambda x: np.sin(x) + 1e6j) >= 1e6 * EPS


def test_each_coordinate_has_its_own_noise() -> None:
    """So that a result does not depend on what else is differentiated."""
    x = np.array([0.7, 0.7])
    offsets = np.array([[H, H], [-H, -H]])
    values = np.stack([np.stack([np.sin(x + o), np.round(np.sin(x + o), 6)], axis=1)[[0, 1]] for o in (H, -H)])
    base = np.array([np.sin(0.7), np.round(np.sin(0.7), 6)])
    both = round_off(base, values, offsets, x)
    alone = round_off(base, values[:, 1:], offsets[:, 1:], x[1:])
    np.testing.assert_array_equal(both[1:], alone)
