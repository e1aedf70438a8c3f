"""Plots of an experiment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distnum.scaling.fit import fit_model
from distnum.scaling.model import Link
from distnum.scaling.plots import plot_scaling
from distnum.scaling.summary import summarise
from tests.scaling.measurements import MEASURED, even_balance


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots_are_written_as_png_and_svg(suffix: str, tmp_path: Path) -> None:
    ones = [*MEASURED, *(replace(one, threads=2, busy=1.0) for one in MEASURED)]
    model = fit_model(MEASURED, even_balance, 8, Link())
    plot_scaling(summarise(ones), model, "strong", tmp_path / f"scaling{suffix}")
    assert (tmp_path / f"scaling{suffix}").stat().st_size > 10_000
