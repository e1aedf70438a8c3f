"""The notes on the measurements of an experiment."""

from __future__ import annotations

from dataclasses import replace

from distnum.scaling.notes import measurement_notes
from tests.scaling.measurements import MEASURED, ONCE, measured


def test_intervals_of_few_repeats_are_explained() -> None:
    assert measurement_notes(ONCE, "a reason") == [
        "settings that were measured once have no interval; measure with more repeats",
        "not all settings were measured in turns, so a drift of the machine may distort their ratios; to avoid that, "
        "measure all of them in another folder",
    ]
    (note,) = measurement_notes(MEASURED, "a reason")
    assert "which contains the true median in 94 % of cases" in note


def test_settings_that_were_not_measured_in_turns_are_noted() -> None:
    later = [measured(8, repeat) for repeat in range(1, 6)]
    assert "not all settings were measured in turns" in measurement_notes([*MEASURED, *later], "a reason")[-1]


def test_parameters_that_differ_are_noted() -> None:
    differing = [*MEASURED, replace(MEASURED[0], params_sha256="cd")]
    note = "the same steps did not end with the same parameters in all measurements: a reason"
    assert measurement_notes(differing, "a reason")[-1] == note
    by_workers = [replace(one, mode="weak", params_sha256=str(one.workers)) for one in MEASURED]
    assert len(measurement_notes(by_workers, "a reason")) == 1
