"""Pools: the same bits wherever slices are computed, through a worker's death too, and clear ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.checkpoints import params_sha256
from distnum.jobs import network_job, prepare
from distnum.loop import run_steps
from distnum.placement import open_pool
from distnum.ray_pool import RayPool

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

SMALL: dict[str, Any] = {"hidden": (8,), "steps": 4, "batch_size": 20}


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return distnum.train(**SMALL, workers=0).params_sha256


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_bits_do_not_depend_on_the_workers(workers: int, undisturbed: str) -> None:
    assert distnum.train(**SMALL, workers=workers).params_sha256 == undisturbed


def test_bits_do_not_depend_on_workers_and_threads_together(undisturbed: str) -> None:
    assert distnum.train(**SMALL, workers=2, threads_per_worker=2).params_sha256 == undisturbed


@pytest.mark.parametrize(
    "options",
    [
        {"method": "naive", "hidden": (3,), "steps": 1, "batch_size": 5},
        {"scheme": "central4", "dtype": "float32", "optimizer": "adam"},
        {"scheme": "forward", "activation": "tanh", "hidden": (6, 5), "loss": "mean_squared_error"},
        {"activation": "quantize:4", "h": 0.1, "hidden": (6, 6, 6)},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_bits_of_other_settings(options: dict[str, Any]) -> None:
    serial = distnum.train(**{**SMALL, **options}, workers=0)
    assert distnum.train(**{**SMALL, **options}, workers=3).params_sha256 == serial.params_sha256


def test_bits_of_the_main_job() -> None:
    serial = distnum.train(steps=3, workers=0)
    assert {distnum.train(steps=3, workers=k).params_sha256 for k in (1, 2, 5)} == {serial.params_sha256}


def test_a_worker_that_is_killed_costs_nothing_but_time(undisturbed: str) -> None:
    job = network_job(distnum.Config(**SMALL, workers=3))
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)
        state = job.initial
        for step in run_steps(job, pool, state):
            state = step.state
            if step.step in (1, 2):
                os.kill(pool.worker_pids[0], signal.SIGKILL)
    assert params_sha256(state.params) == undisturbed


def test_a_worker_that_always_dies_is_not_restarted_for_ever(tmp_path: Path) -> None:
    driver = os.getpid()

    def fatal(params: np.ndarray, batch: Any) -> float:
        if os.getpid() != driver:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    with pytest.raises(TrainingError, match=r"Workers were lost 4 times in step 1.*fewer workers"):
        distnum.train(fatal, np.zeros(3), steps=2, workers=1)


class SimulatorError(Exception):
    """An error of the user's own."""


def test_the_users_exception_comes_as_it_was_raised() -> None:
    def broken(params: np.ndarray, batch: Any) -> float:
        raise SimulatorError("no fuel")

    with pytest.raises(SimulatorError, match="no fuel"):
        distnum.train(broken, np.zeros(3), steps=2, workers=2)


def test_a_loss_that_is_not_finite_is_named_from_a_worker_too() -> None:
    with pytest.raises(TrainingError, match=r"The loss is nan where parameter x\[2\] \(index 2\) is moved"):
        distnum.gradient(lambda x: float(np.sqrt(-x[2])) if x[2] else 0.0, np.zeros(4), workers=2)


def test_gradient_on_workers_is_the_gradient() -> None:
    x = np.linspace(-1, 1, 50)

    def f(x: np.ndarray) -> float:
        return float((x**4).sum())

    np.testing.assert_array_equal(distnum.gradient(f, x, workers=3), distnum.gradient(f, x))


def test_more_workers_than_parameters() -> None:
    found = distnum.gradient(lambda x: float(x[0] * x[1]), np.array([2.0, 3.0]), workers=4)
    np.testing.assert_allclose(found, [3, 2], rtol=1e-9)


def test_too_many_workers_for_the_cluster() -> None:
    with pytest.raises(InputError, match="workers is 50 and threads_per_worker is 2, but the Ray cluster has 8 CPUs"):
        distnum.train(**SMALL, workers=50, threads_per_worker=2)


def test_auto_chooses_workers_and_threads_that_pay() -> None:
    job = prepare(None, None, None, None, SMALL)
    with open_pool(job, gradient_s=1e-4) as pool:
        assert pool.n_workers == 1
    with open_pool(job, gradient_s=10.0) as pool:
        assert pool.n_workers * pool.n_threads == 8
    one_thread = prepare(None, None, None, None, {**SMALL, "threads_per_worker": 1})
    with open_pool(one_thread, gradient_s=10.0) as pool:
        assert (pool.n_workers, pool.n_threads) == (8, 1)


def test_an_activation_of_the_users_own_goes_to_the_workers() -> None:
    for make in (distnum.Activation.from_scalar_function, distnum.Activation.from_function):
        activation = make(lambda a: a / (1 + a * a), "bump")
        serial = distnum.train(**SMALL, activation=activation, workers=0)
        assert distnum.train(**SMALL, activation=activation, workers=2).params_sha256 == serial.params_sha256
