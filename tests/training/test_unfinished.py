"""Finished slices of a long step are kept, so that a crash of the driver does not lose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.differentiation.black_box import BlackBox
from distnum.evaluation.forms import Form
from distnum.training.unfinished import UnfinishedStep
from distnum.workers.serial_pool import SerialPool


class Crash(BaseException):
    """Stands for the death of the driver."""


def test_finished_slices_survive_a_crash_and_serve_their_own_step_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distnum.workers.planner._PART_S", 0)  # one tile at a time
    form, flat = Form.of(np.arange(64.0), "params")
    n_calls = 0

    def loss(params: np.ndarray, batch: Any) -> float:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 100:
            raise Crash
        return float((params**2).sum())

    objective = BlackBox(loss, form, flat.size, "central", None)

    def gradient(folder: str, step: int = 1) -> np.ndarray:
        kept = UnfinishedStep(tmp_path / folder, objective, {}, lambda path, error: None, after_s=0)
        return SerialPool(objective, lambda step: None).compute(step, flat.copy(), kept).answers

    with pytest.raises(Crash):
        gradient("slices")
    before = n_calls
    resumed = gradient("slices")
    assert n_calls - before < 40  # of 129
    whole = SerialPool(objective, lambda step: None).compute(1, flat.copy()).answers
    np.testing.assert_array_equal(resumed, whole)

    n_calls = 0
    with pytest.raises(Crash):
        gradient("others")
    before = n_calls
    np.testing.assert_array_equal(gradient("others", step=2), resumed)
    assert n_calls - before == 129  # slices of step 1 are not used in step 2
