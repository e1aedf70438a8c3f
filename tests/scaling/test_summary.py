"""Medians, intervals and efficiencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distnum.scaling.summary import coverage, efficiencies, in_turns, summarise
from tests.scaling.measurements import MEASURED, ONCE, measured


def test_intervals_contain_the_value_and_shrink_with_the_noise() -> None:
    rough = summarise([measured(k, r, noise=0.05) for r in range(1, 6) for k in (1, 4)])[1]
    fine = summarise([measured(k, r, noise=0.005) for r in range(1, 6) for k in (1, 4)])[1]
    for one in (rough, fine):
        assert one.step_s.low <= one.step_s.value <= one.step_s.high
        assert one.speed_up.low < one.speed_up.value < one.speed_up.high
        assert one.efficiency.value == pytest.approx(one.speed_up.value / 4)
    assert fine.speed_up.high - fine.speed_up.low < (rough.speed_up.high - rough.speed_up.low) / 3


def test_intervals_of_few_repeats_contain_the_median_as_often_as_stated() -> None:
    contained = {5: 0, 8: 0}
    for n_repeats in contained:
        for sample in range(200):
            times = 1 + 0.1 * np.random.default_rng((n_repeats, sample)).standard_normal(n_repeats)
            (one,) = summarise([measured(1, r, step_s=float(t)) for r, t in enumerate(times, 1)])
            contained[n_repeats] += one.step_s.low <= 1 <= one.step_s.high
    assert contained[5] / 200 == pytest.approx(coverage(5), abs=0.04)
    assert contained[8] / 200 == pytest.approx(0.9, abs=0.05)


def test_a_setting_that_was_measured_once_has_no_interval() -> None:
    one, two = summarise(ONCE)
    assert np.isnan(one.step_s.low)
    assert two.step_s.low < two.step_s.high
    assert np.isnan(two.speed_up.high)  # relative to a setting without an interval


def test_settings_that_were_not_measured_in_turns_are_detected() -> None:
    assert in_turns(MEASURED)
    later = [measured(8, repeat) for repeat in range(1, 6)]
    assert not in_turns([*MEASURED, *later])  # added with --resume
    assert not in_turns([*MEASURED, *(replace(one, repeat=one.repeat + 5) for one in later)])  # or as more repeats
    assert in_turns([*MEASURED, *(replace(one, repeat=one.repeat + 5) for one in MEASURED)])


def test_speed_up_in_weak_scaling_counts_the_work() -> None:
    summaries = summarise([measured(k, mode="weak") for k in (1, 4)])
    assert summaries[1].speed_up.value == pytest.approx(4 * summaries[0].step_s.value / summaries[1].step_s.value)
    assert 0.9 < summaries[1].efficiency.value < 1


def test_efficiencies_are_relative_to_the_same_repeat() -> None:
    ones = [measured(1, 1, step_s=1.0), measured(4, 1, step_s=0.5), measured(4, 2, step_s=0.25)]
    assert efficiencies(ones) == [1.0, 0.5, None]
