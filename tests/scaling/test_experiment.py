"""Whole experiments."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import distnum
from distnum import InputError
from distnum.scaling.experiment import scale
from distnum.scaling.measurement import PARTS
from distnum.scaling.report import scaling_report
from tests.scaling.measurements import square


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": [1, 9]}, "workers holds 9, but the 8 parameters are cut into 8 tiles"),
        ({"threads": [2]}, "threads is more than 1, but each worker evaluates whole loss functions"),
        ({"mode": "weak"}, "mode is 'weak', which grows the batch"),
        ({"mode": "middling"}, "mode is 'middling'; it must be one of strong, weak"),
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"repeats": -1}, "repeats is -1"),
        ({"forecast": [0]}, "forecast is 0"),
        ({"forecast": 8}, "forecast needs at least 2 numbers of workers to be measured, but workers is only 1"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"out": "s3://bucket/x"}, "out is 's3://bucket/x'; it must be a local folder, not a URI"),
        ({"out": ""}, "out is ''"),
        ({"gbit_per_s": float("nan")}, "gbit_per_s is nan"),
        ({"workers_per_node": 0}, "workers_per_node is 0"),
        ({"resume": True}, "resume is True, but out is not given"),
    ],
)
def test_impossible_experiments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale(square, np.ones(8), **{"workers": [1], **arguments})


def wait_5_ms(w, batch):
    time.sleep(0.005)
    return float(w @ w)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_waiting_function_on_more_workers_than_cores(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    common = {"steps": 2, "warmup": 1, "out": tmp_path}
    result = distnum.scale(
        wait_5_ms,
        np.ones(48),
        workers=[1, 2, 6],
        repeats=2,
        forecast=[12, 1000],
        on_measured=lambda one, n_left: seen.append((one.workers, n_left)),
        **common,
    )
    assert seen == [(1, 5), (2, 4), (6, 3), (1, 2), (2, 1), (6, 0)]
    assert len({one.params_sha256 for one in result.measurements}) == 1  # the same bits on any number of workers
    for one in result.measurements:
        # With two steps the medians are means, and the parts sum to the step.
        assert one.step_s == pytest.approx(sum(getattr(one, part) for part in PARTS))
        assert one.busy < 0.75
        assert not one.oversubscribed
    assert result.summaries[2].speed_up.value > 3
    assert [one.workers for one in result.forecasts] == [12, 1000]
    assert result.forecasts[1].step_s.value >= 2 * 2 * 0.005  # a worker gets at least one tile
    report = scaling_report(result)
    assert "first bottleneck" in report
    assert "assumed beyond what was measured: " in report

    # Only the new setting is measured.
    result = distnum.scale(wait_5_ms, np.ones(48), workers=[1, 2, 3, 6], repeats=2, resume=True, **common)
    assert [one.workers for one in result.measurements] == [1, 2, 6, 1, 2, 6, 3, 3]
    result = distnum.scale(wait_5_ms, np.ones(48), workers=[2], repeats=1, **common)
    assert (result.measurements[-1].workers, result.measurements[-1].repeat) == (2, 3)
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert len(content["measurements"]) == 9
    assert content["model"]["coefficients"]["work_s"]["value"] > 0
