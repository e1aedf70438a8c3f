"""Levels: what pairs of points at several distances say together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distnum.differentiation.judgment.levels import Levels

EPS = 2.0**-52


def levels_of(function: Callable[[Any], Any], *distances: float, noise: float = EPS) -> Levels:
    """The levels of a function of one coordinate around 0."""
    h = np.array(distances)
    offsets = np.stack([h, -h], axis=1)[:, :, None]
    values = np.vectorize(function)(offsets)[..., None].astype(float)
    with np.errstate(all="ignore"):
        return Levels(offsets, values, np.array([float(function(0.0))]), np.full((1, 1), noise))


def test_levels_are_ordered_by_distance() -> None:
    levels = levels_of(np.exp, 1e-3, 1e-5, 1e-4)
    assert levels.h[:, 0, 0] == pytest.approx([1e-5, 1e-4, 1e-3])
    assert levels.derivative[:, 0, 0] == pytest.approx([1, 1, 1])
    assert levels.bend[:, 0, 0] == pytest.approx([0.5e-5, 0.5e-4, 0.5e-3], rel=1e-3)


def test_a_parabola_is_told_from_kinks() -> None:
    assert levels_of(lambda z: z * z, 1e-3, 1e-2).parabolic()[0, 0, 0]
    assert not levels_of(abs, 1e-3, 1e-2).parabolic()[0, 0, 0]
    # Here the bends fall as those of a parabola: by 8, as the distances.
    near = 1e-2 * 8 / 15
    kink = levels_of(lambda z: abs(z - near) + abs(z + near / 64), 1e-2 / 8, 1e-2)
    assert not kink.parabolic()[0, 0, 0]


def test_derivatives_of_a_parabola_stay_where_they_are() -> None:
    """Noise may bend like a parabola by chance; its derivatives then differ by as much as its slopes do."""
    values = {6e-6: 3.0, -6e-6: 1.0, 7.5e-7: 0.1263, -7.5e-7: -0.0638}
    levels = levels_of(lambda z: next((v for at, v in values.items() if abs(z - at) < 1e-9), 0.0), 7.5e-7, 6e-6)
    assert levels.bend[0, 0, 0] == pytest.approx(levels.bend[1, 0, 0] / 8, rel=0.25)
    assert not levels.parabolic()[0, 0, 0]


@pytest.mark.parametrize(("factor", "shrinks"), [(1.0, False), (0.3, False), (0.1, True), (0.001, True)])
def test_values_must_change_far_less_at_far_smaller_distances(factor: float, shrinks: bool) -> None:
    levels = levels_of(lambda z: 0.0 if z == 0 else np.sign(z) * (1.0 if abs(z) > 1e-4 else factor), 1e-9, 1e-3)
    assert levels.shrinks()[:, 0, 0].tolist() == [shrinks, True]


def test_noise_shows_where_second_differences_do_not_fall() -> None:
    noise = {1e-3: 0.7, -1e-3: 0.9, 1e-6: -1.1, -1e-6: 0.2}
    levels = levels_of(lambda z: 1e-4 * noise.get(z, 0.0), 1e-6, 1e-3)
    assert 3e-5 < levels.hidden_noise()[0, 0] < 3e-4
    for smooth in (np.exp, np.cos, np.tanh):
        assert levels_of(smooth, 1e-6, 1e-3).hidden_noise()[0, 0] == 0


def test_a_jump_or_a_kink_is_no_noise() -> None:
    assert levels_of(lambda z: float(z >= 0), 1e-9, 1e-6, 1e-3).hidden_noise()[0, 0] == 0
    assert levels_of(abs, 1e-6, 1e-3).hidden_noise()[0, 0] == 0
    assert levels_of(lambda z: float(z >= 0), 1e-9, 1e-6, 1e-3).jumps()[0, 0]
    assert levels_of(abs, 1e-6, 1e-3).kinked()[0, 0]


def test_an_oscillation_that_is_seen_at_the_small_distance_is_no_noise() -> None:
    """Its second differences are as large at a distance of many periods."""
    levels = levels_of(lambda z: np.sin(1e5 * z + 0.03), 6e-6, 1e-3)
    assert levels.hidden_noise()[0, 0] == 0


def test_derivatives_at_distances_that_are_too_large_do_not_count() -> None:
    with np.errstate(all="ignore"):
        assert levels_of(lambda z: np.exp(1e3 * z), 1e-4, 3e-2).farther()[0, 0, 0] == 0
        assert levels_of(lambda z: z**3, 1e-4, 1e-2).farther()[0, 0, 0] == pytest.approx(1e-4)
