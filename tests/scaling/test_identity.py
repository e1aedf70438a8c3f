"""Which measurements may be compared, and which are missing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from distnum import InputError, TrainingError
from distnum.scaling.folder import ScalingFolder
from distnum.scaling.identity import check_nodes, measured_identity, missing_measurements
from distnum.scaling.measure import prepare_measured_job
from distnum.scaling.measurement import Setting
from tests.scaling.measurements import MEASURED, square


def test_measurements_on_other_nodes_are_refused() -> None:
    here = MEASURED[0]
    check_nodes([here], replace(here, repeat=2))
    check_nodes([here], replace(MEASURED[1], nodes=2, cores=4))  # more workers may be on more nodes
    with pytest.raises(
        TrainingError, match="workers = 1 were on 1 node with 2 cores, now they are on 2 nodes with 4 cores"
    ):
        check_nodes([here], replace(here, nodes=2, cores=4))


def cube(w, batch):
    return float((w**3).sum())


def scaled(factor, w, batch):
    return factor * float(w @ w)


def test_a_folder_belongs_to_one_function_and_its_initial_parameters(tmp_path: Path) -> None:
    def work(loss, start: float = 1.0):
        return prepare_measured_job(loss, np.full(8, start), None, None, {}, [Setting(1, 1)], "strong")

    ScalingFolder(tmp_path, measured_identity(work(square))).add(MEASURED[0], {})
    assert ScalingFolder(tmp_path, measured_identity(work(square))).measurements == MEASURED[:1]
    others = [(work(cube), "function"), (work(square, 2.0), "initial_sha256")]
    for other, name in others:
        with pytest.raises(InputError, match=f"holds measurements with {name} = "):
            ScalingFolder(tmp_path, measured_identity(other))
    bound = tmp_path / "bound"
    bound.mkdir()
    ScalingFolder(bound, measured_identity(work(partial(scaled, 1)))).add(MEASURED[0], {})
    assert ScalingFolder(bound, measured_identity(work(partial(scaled, 1)))).measurements
    with pytest.raises(InputError, match="holds measurements with arguments_sha256 = "):
        ScalingFolder(bound, measured_identity(work(partial(scaled, 2))))


def test_repeats_that_were_begun_are_finished() -> None:
    settings = [Setting(1, 1), Setting(2, 1)]
    first = [replace(MEASURED[0], workers=k, repeat=n) for n in (1, 2) for k in (1, 2)]
    assert missing_measurements(first, settings, 2, resume=True) == []
    assert missing_measurements(first, settings, 1, resume=False) == [(3, Setting(1, 1)), (3, Setting(2, 1))]
    added = [*first, replace(MEASURED[0], repeat=3)]
    assert missing_measurements(added, settings, 2, resume=True) == [(3, Setting(2, 1))]
