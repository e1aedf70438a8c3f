"""The report of an experiment."""

from __future__ import annotations

import numpy as np

from distnum.scaling.fit import fit_model
from distnum.scaling.model import Link
from distnum.scaling.notes import measurement_notes
from distnum.scaling.report import scaling_report
from distnum.scaling.result import ScalingResult
from distnum.scaling.summary import summarise
from tests.scaling.measurements import ONCE, even_balance


def test_a_report_without_intervals() -> None:
    model = fit_model(ONCE, even_balance, 8, Link())
    forecast = model.forecast(8)
    assert np.isnan(forecast.step_s.low)
    notes = measurement_notes(ONCE, "a reason")
    report = scaling_report(ScalingResult(ONCE, summarise(ONCE), model, "", [forecast], [1.0], [], {}, notes, None))
    assert "nan" not in report
    assert "error at most 0.0%, which says little, as only two numbers of workers were measured" in report
    assert "relative to 1 worker with 1 thread each" in report
    assert "note: settings that were measured once" in report
