"""The noise of a function from its values along a line."""

from __future__ import annotations

import math

import numpy as np
import pytest

import distnum
from distnum import InputError
from distnum.differentiation.judgment.noise import noise_level
from tests.differentiation.zoo import rough

LINE = np.arange(-4, 5)


@pytest.mark.parametrize("level", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("trend", [0.0, 1.0, 10.0])
def test_the_level_of_normal_noise_is_found_under_a_trend(level: float, trend: float) -> None:
    rng = np.random.default_rng(0)
    smooth = 1 + trend * level * (LINE + 0.1 * LINE**2)
    values = smooth[:, None] + level * rng.standard_normal((9, 200))
    found, factor = noise_level(values)
    known = np.isfinite(found)
    assert known.mean() > 0.8
    assert (factor == 1) == known.all()
    assert np.median(found[known]) == pytest.approx(level, rel=0.3)
    ratio = found[known] / level
    assert ratio.min() > 0.1
    assert ratio.max() < 10


def test_each_output_has_its_own_level() -> None:
    rng = np.random.default_rng(1)
    levels = np.array([1e-9, 1e-3])
    found, _ = noise_level(5 + levels * rng.standard_normal((9, 2)))
    assert found / levels == pytest.approx([1, 1], rel=1)


def test_equal_values_ask_for_a_larger_spacing() -> None:
    found, factor = noise_level(np.ones((9, 1)))
    assert np.isnan(found).all()
    assert factor == 100


def test_values_that_vary_ask_for_a_smaller_spacing() -> None:
    found, factor = noise_level(np.exp(LINE)[:, None])
    assert np.isnan(found).all()
    assert factor == 0.01


def test_a_smooth_function_without_noise_has_none() -> None:
    found, _ = noise_level(1 + 1e-3 * np.sin(LINE / 10)[:, None])
    assert not np.nan_to_num(found).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_have_no_level(bad: float) -> None:
    values = np.random.default_rng(0).standard_normal((9, 2)) * 1e-6 + 1
    values[3, 0] = bad
    found, _ = noise_level(values)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


def test_complex_values() -> None:
    rng = np.random.default_rng(0)
    found, _ = noise_level((1 + 1j) + 1e-6 * rng.standard_normal((9, 20)))
    assert np.nanmedian(found) == pytest.approx(1e-6, rel=1)


class TestEstimateNoise:
    @pytest.mark.parametrize("level", [1e-10, 1e-5, 1e-3])
    def test_noise_that_repeats_is_found(self, level: float) -> None:
        def function(x: np.ndarray) -> float:
            return math.sin(x[0]) * x[1] + level * rough(x[0] + x[1])

        noise = distnum.estimate_noise(function, np.array([1.0, 2.0]))
        assert noise.success
        # Uniform between -level and level.
        assert noise.level == pytest.approx(level / math.sqrt(3), rel=1)
        assert noise.n_evals % 9 == 0

    def test_rounding_is_noise(self) -> None:
        noise = distnum.estimate_noise(lambda x: 1e6 + math.sin(x[0]), np.array([1.0]))
        assert 1e-11 < noise.level < 1e-9

    def test_the_form_of_the_value(self) -> None:
        rng = np.random.default_rng(0)

        def function(x: np.ndarray) -> dict[str, object]:
            return {"a": x[0] + 1e-4 * rng.standard_normal(), "b": x + 1e-6 * rng.standard_normal(2)}

        noise = distnum.estimate_noise(function, np.array([1.0, 2.0]), points=15)
        assert noise.level["a"] == pytest.approx(1e-4, rel=1.5)
        assert noise.level["b"] == pytest.approx([1e-6, 1e-6], rel=1.5)

    def test_a_constant_has_none(self) -> None:
        noise = distnum.estimate_noise(lambda x: 3.0, np.array([1.0]))
        assert not noise.success
        assert "Not found" in noise.message

    def test_too_few_points_are_refused(self) -> None:
        with pytest.raises(InputError, match="points"):
            distnum.estimate_noise(lambda x: 3.0, np.array([1.0]), points=6)

    def test_a_function_without_values(self) -> None:
        noise = distnum.estimate_noise(lambda x: math.nan, np.array([1.0]))
        assert not noise.success
        assert math.isnan(noise.level)
