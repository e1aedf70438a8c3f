"""A derivative has the same bits in this process, on any number of workers, with workers killed, and after stops."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import distnum
from distnum import Derivative, Status
from distnum.storage.evaluations import EvaluationStore
from tests.system.processes import default_signals, descendants, have_ended, wait_for

ROOT = Path(__file__).parents[2]
KINK, UNUSED, FAILS, TINY, MINIMUM = 5, 7, 9, 11, 12
X = np.random.default_rng(7).normal(size=40)
X[TINY], X[MINIMUM] = 1e-7, 0.0
WEIGHTS = np.where(np.arange(40) == UNUSED, 0.0, np.linspace(0.5, 2.0, 40))


def model(x: Any) -> Any:
    """Three numbers; some coordinates have all the difficulties of a derivative."""
    time.sleep(float(os.environ.get("SECONDS_EACH", "0.002")))
    if x[FAILS] > X[FAILS]:
        raise ArithmeticError("no value on this side")
    squares = WEIGHTS @ (x * x)
    return np.array([squares + abs(x[KINK] - X[KINK]), np.sin(squares) + np.tanh(1e6 * x[TINY]), np.exp(x[20:]).sum()])


def derivative(function: Any = model, **options: Any) -> Derivative:
    """The derivative of the function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", distnum.DerivativeWarning)  # of the kink
        return distnum.differentiate(function, X, on_error="one-sided", **options)


def bits(found: Derivative) -> list[bytes]:
    """All numbers of a derivative, bit by bit."""
    return [np.asarray(part).tobytes() for part in (found.value, found.jac, found.error, found.h, found.status)]


@cache
def serial() -> Derivative:
    """The derivative by this process alone."""
    return derivative()


def test_the_function_has_all_the_difficulties() -> None:
    found = serial()
    assert found.jac.shape == (3, 40)
    assert found.status[0, KINK] == Status.KINK
    assert found.status[:2, FAILS].tolist() == [Status.ONE_SIDED] * 2
    assert (found.jac[:, UNUSED] == 0).all()
    assert found.status[1, TINY] == Status.OK
    assert found.h[1, TINY] < 1e-7, "its step was searched"
    assert found.n_evals > 90
    assert len(found.failures) > 0


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(7, marks=pytest.mark.slow)])
def test_workers_do_not_change_the_bits(n: int) -> None:
    with distnum.Evaluator(n) as workers:
        assert bits(derivative(workers=workers)) == bits(serial())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_killed_workers_do_not_change_the_bits(tmp_path: Path) -> None:
    def killed_at_times(x: Any) -> Any:
        for coordinate in (3, KINK, TINY):
            mark = tmp_path / str(coordinate)
            if x[coordinate] != X[coordinate] and not mark.exists():
                mark.touch()
                subprocess.run(["kill", "-9", str(os.getpid())], check=False)  # as from outside
        return model(x)

    with distnum.Evaluator(3) as workers:
        pids = workers.worker_pids
        found = derivative(killed_at_times, workers=workers)
        assert bits(found) == bits(serial())
        assert len(set(pids) - set(workers.worker_pids)) >= 1
    assert len(list(tmp_path.iterdir())) == 3


@contextmanager
def driver(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that computes the derivative on two workers, in a process group of its own."""
    code = f"from {__name__} import derivative\nderivative(workers=2, store={str(store)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "SECONDS_EACH": "0.05"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    started: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            started = descendants(process)
            process.kill()
        process.communicate()
        for one in started:
            if not have_ended([one]):
                one.kill()


def n_kept(store: Path) -> int:
    """Number of evaluations in a store."""
    if not store.exists():
        return 0
    with EvaluationStore(store) as opened:
        return len(opened)


@pytest.mark.slow
@pytest.mark.ray
def test_stops_at_any_moment_do_not_change_the_bits(tmp_path: Path) -> None:
    store, n_evals = tmp_path / "store", serial().n_evals
    interrupted_at, killed_at = random.randrange(1, n_evals // 2), random.randrange(n_evals // 2, n_evals - 25)
    moments = f"interrupted after {interrupted_at} and killed after {killed_at} of {n_evals} evaluations"
    with driver(store) as process:
        wait_for(lambda: n_kept(store) >= interrupted_at or process.poll() is not None, 60, moments)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: the whole group
        assert process.wait(60) == -signal.SIGINT, moments
    with driver(store) as process:
        wait_for(lambda: n_kept(store) >= killed_at or process.poll() is not None, 60, moments)
        servers = descendants(process)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, moments
        wait_for(lambda: have_ended(servers), 60, "the end of the workers of a killed program")
    n = n_kept(store)
    assert killed_at <= n < n_evals, moments
    found = derivative(store=store)
    assert bits(found) == bits(serial()), moments
    assert found.n_cached >= killed_at - 1, moments  # f(x) is evaluated again and compared
    again = derivative(store=store)
    assert bits(again) == bits(serial()), moments
    assert (again.n_evals, again.n_cached) == (1, n_evals - 1)
