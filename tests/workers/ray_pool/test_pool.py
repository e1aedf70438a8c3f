"""The Ray pool: errors of the function, lost workers, shared memory, and numbers of workers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.differentiation.black_box import BlackBox
from distnum.evaluation.forms import Form
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.ray_pool.shared_memory import SharedVectors
from distnum.workers.serial_pool import SerialPool

pytestmark = pytest.mark.usefixtures("way")

SMALL: dict[str, Any] = {"hidden": (8,), "steps": 4, "batch_size": 20}


def test_a_worker_that_always_dies_ends_the_training(tmp_path: Path) -> None:
    driver = os.getpid()

    def fatal(params: np.ndarray, batch: Any) -> float:
        if os.getpid() != driver:
            subprocess.run(["kill", "-9", str(os.getpid())], check=False)  # as from outside
        return 0.0

    with pytest.raises(TrainingError, match=r"lost 4 times.*params itself|params itself.*lost 4 times"):
        distnum.train(fatal, np.zeros(3), steps=2, workers=1)


class SimulatorError(Exception):
    """An exception of the user."""


@pytest.mark.parametrize(
    "kind",
    [SimulatorError, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (EOFError, BrokenPipeError))],
)
def test_the_exception_of_a_function_reaches_the_user_unchanged(kind: type[Exception]) -> None:
    def broken(params: np.ndarray, batch: Any) -> float:
        raise kind("no fuel")

    with pytest.raises(kind, match="no fuel"):
        distnum.train(broken, np.zeros(3), steps=2, workers=2)


def test_workers_survive_an_exception_of_the_function() -> None:
    def sometimes(params: np.ndarray, step: int) -> float:
        if step == 2:
            raise SimulatorError("no fuel")
        return float((params**2).sum())

    form, flat = Form.of(np.arange(30.0), "params")
    objective = BlackBox(sometimes, form, flat.size, "central", None)
    with RayPool(objective, lambda step: step, 2) as pool:
        pids = pool.worker_pids
        for step in (1, 2, 2, 3):
            if step == 2:
                with pytest.raises(SimulatorError, match="no fuel"):
                    pool.compute(step, flat.copy())
            else:
                np.testing.assert_allclose(pool.compute(step, flat.copy()).answers, 2 * flat, atol=1e-6)
        assert pool.worker_pids == pids


def test_parameters_are_sent_where_shared_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    form, flat = Form.of(np.arange(30.0), "params")
    objective = BlackBox(lambda x, batch: float((x**2).sum()), form, flat.size, "central", None)
    with RayPool(objective, lambda step: None, 2) as pool:
        for step in (1, 2, 3, 4):
            if step == 3:
                monkeypatch.setattr(SharedVectors, "create", lambda *_: None)  # the disk is full
                pool._files.renew(None)
            np.testing.assert_allclose(pool.compute(step, flat.copy()).answers, 2 * flat, atol=1e-6)


def test_a_loss_that_is_not_finite_on_a_worker_names_the_parameter() -> None:
    form, flat = Form.of(np.zeros(4), "x")
    objective = BlackBox(lambda x, batch: float("nan") if x[2] else 0.0, form, flat.size, "central", None)
    with (
        RayPool(objective, lambda step: None, 2) as pool,
        pytest.raises(TrainingError, match=r"The loss is nan where parameter x\[2\] \(index 2\) is moved"),
    ):
        pool.compute(1, flat)


def test_a_gradient_on_workers_has_the_bits_of_one_in_this_process() -> None:
    form, flat = Form.of(np.linspace(-1, 1, 50), "x")
    objective = BlackBox(lambda x, batch: float((x**4).sum()), form, flat.size, "central", None)
    with RayPool(objective, lambda step: None, 3) as pool, SerialPool(objective, lambda step: None) as serial:
        np.testing.assert_array_equal(pool.compute(1, flat).answers, serial.compute(1, flat).answers)


def test_more_workers_than_parameters() -> None:
    form, flat = Form.of(np.array([2.0, 3.0]), "x")
    objective = BlackBox(lambda x, batch: float(x[0] * x[1]), form, flat.size, "central", None)
    with RayPool(objective, lambda step: None, 4) as pool:
        np.testing.assert_allclose(pool.compute(1, flat).answers, [3, 2], rtol=1e-9)


def test_too_many_workers_for_the_cluster() -> None:
    with pytest.raises(InputError, match="workers is 50 and threads_per_worker is 2, but the Ray cluster has 8 CPUs"):
        distnum.train(**SMALL, workers=50, threads_per_worker=2)
