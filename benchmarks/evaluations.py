"""Derivatives of any function on warm workers, compared with the shortest possible time and with other packages.

The shortest time is that of as many plain processes, each of which evaluates its half of the points in a loop. All
entries compute the same central differences of the same function; their workers are started before.
"""

from __future__ import annotations

import os
import time
import tracemalloc
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distnum
from benchmarks.timing import interleaved

N_PARAMS = 2000
WAIT_S = 0.02
N_WAITING, N_SLOW = 32, 16

_MATRIX = np.random.default_rng(0).standard_normal((64, 64)) / 8


def work(x: NDArray[np.floating], loops: int) -> float:
    """Return a number that depends on ``x``, after computing for a time that grows with ``loops``."""
    v = _MATRIX[0]
    for _ in range(loops):
        v = _MATRIX @ v
    return float(x.sum()) + 1e-300 * float(v[0])


class Work:
    """``work`` with a number of loops that makes it take about this many seconds here."""

    def __init__(self, seconds: float) -> None:
        began = perf_counter()
        work(np.ones(N_PARAMS), 2000)
        self.loops = max(1, round(2000 * seconds / (perf_counter() - began)))

    def __call__(self, x: NDArray[np.floating]) -> float:
        return work(x, self.loops)


def wait(x: NDArray[np.floating]) -> float:
    """Return the sum of ``x`` after ``WAIT_S`` seconds."""
    time.sleep(WAIT_S)
    return float(x.sum())


def wait_by_worker(x: NDArray[np.floating]) -> float:
    """As ``wait``; ten times as long on one of the workers, the one that has made a certain file first."""
    global _is_slow
    if _is_slow is None:
        try:
            os.close(os.open(os.environ["DISTNUM_SLOW_WORKER"], os.O_CREAT | os.O_EXCL))
            _is_slow = True
        except FileExistsError:
            _is_slow = False
    time.sleep(10 * WAIT_S if _is_slow else WAIT_S)
    return float(x.sum())


_is_slow: bool | None = None


def empty(x: NDArray[np.floating]) -> float:
    """Return a number at once."""
    return float(x[0] + x[-1])


def _half(task: tuple[Callable[[Any], float], NDArray[np.floating], range]) -> float:
    function, x, indices = task
    total = 0.0
    for index in indices:
        for h in (6e-6, -6e-6):
            kept = x[index]
            x[index] = kept + h
            total += function(x)
            x[index] = kept
    return total


def compare_with_floor(
    seconds: float, n_workers: int = 2, repeats: int = 5, n_params: int = N_PARAMS
) -> dict[str, Any]:
    """Times of a gradient with two workers, relative to plain processes in the same round."""
    from joblib import Parallel, delayed
    from scipy.optimize._numdiff import approx_derivative

    function, x = Work(seconds), np.ones(n_params)
    parts = [(function, x, range(start, n_params, n_workers)) for start in range(n_workers)]
    moved = [x + sign * 6e-6 * np.eye(1, n_params, index)[0] for index in range(n_params) for sign in (1, -1)]
    with (
        get_context("spawn").Pool(n_workers) as pool,
        Parallel(n_workers) as parallel,
        distnum.Evaluator(n_workers) as evaluator,
    ):
        times = interleaved(
            {
                "plain processes": lambda: pool.map(_half, parts, 1),
                "distnum": lambda: distnum.gradient(function, x, workers=evaluator),
                "SciPy, multiprocessing.Pool.map": lambda: approx_derivative(
                    function, x, method="3-point", workers=pool.map
                ),
                "joblib": lambda: parallel(delayed(function)(one) for one in moved),
            },
            repeats,
        )
    floor = times["plain processes"]
    return {
        name: {
            "median_s": median(seconds_),
            "relative": median(one / least for one, least in zip(seconds_, floor, strict=True)),
        }
        for name, seconds_ in times.items()
    }


def measure_waiting(n_workers: int = N_WAITING, n_params: int = 1600, repeats: int = 5) -> float:
    """Efficiency of workers that wait: shortest possible time divided by the time taken, the median of some runs."""
    x = np.ones(n_params)
    efficiencies = []
    with distnum.Evaluator(n_workers) as evaluator:
        distnum.gradient(wait, x, indices=np.arange(n_workers), workers=evaluator)  # sends them the function
        for _ in range(repeats):
            began = perf_counter()
            derivative = distnum.differentiate(wait, x, workers=evaluator)
            efficiencies.append(derivative.n_evals * WAIT_S / n_workers / (perf_counter() - began))
    return median(efficiencies)


def measure_slow_worker(folder: str, n_workers: int = N_SLOW, n_params: int = 1600) -> float:
    """Time with one of the workers ten times slower, divided by that with speeds shared ideally."""
    os.environ["DISTNUM_SLOW_WORKER"] = os.path.join(folder, "slow")
    x = np.ones(n_params)
    with distnum.Evaluator(n_workers) as evaluator:
        distnum.gradient(wait_by_worker, x[: 4 * n_workers], workers=evaluator)
        began = perf_counter()
        derivative = distnum.differentiate(wait_by_worker, x, workers=evaluator)
        taken = perf_counter() - began
    return taken / (derivative.n_evals * WAIT_S / (n_workers - 1 + 0.1))


def measure_second_call() -> float:
    """Seconds of a second gradient of an almost empty function of ten parameters, on warm workers."""
    x = np.ones(10)
    with distnum.Evaluator(2) as evaluator, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distnum.directional(empty, x, x, workers=evaluator)
        times = []
        for _ in range(20):
            began = perf_counter()
            distnum.gradient(work_of_ten, x, workers=evaluator)
            times.append(perf_counter() - began)
    return median(times[1:])


def work_of_ten(x: NDArray[np.floating]) -> float:
    """Return the sum of squares."""
    return float(x @ x)


def measure_serial_overhead(n_params: int = N_PARAMS) -> float:
    """Seconds for each evaluation in this process beyond those of the function."""
    x, c = np.ones(n_params), np.linspace(1, 2, n_params)

    def function(x: NDArray[np.floating]) -> float:
        return float(x.dot(c))

    def loop() -> None:
        for _ in range(2 * n_params + 1):
            function(x)

    times = interleaved({"loop": loop, "distnum": lambda: distnum.gradient(function, x)}, 11)
    return median(b - a for a, b in zip(times["loop"], times["distnum"], strict=True)) / (2 * n_params + 1)


def measure_memory() -> dict[str, float]:
    """MiB that derivatives take beyond the function and the result."""
    x = np.ones(40_000)
    tracemalloc.start()
    distnum.gradient(lambda x: float(x @ x), x)
    gradient_mb = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.reset_peak()
    m, n = 1000, 20_000
    base = np.zeros(m)

    def rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
        return base + x[0] * x[-1] + x.sum()

    before = tracemalloc.get_traced_memory()[0]
    jacobian = distnum.jacobian(rows, np.ones(n))
    jacobian_mb = (tracemalloc.get_traced_memory()[1] - before - jacobian.nbytes) / 2**20
    tracemalloc.stop()
    return {"gradient of 40,000": gradient_mb, "Jacobian 1,000 x 20,000, beyond itself": jacobian_mb}


def compare_evaluations() -> dict[str, Any]:
    """All of it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        slow = measure_slow_worker(folder)
    return {
        "2 ms": compare_with_floor(2e-3),
        "50 us": compare_with_floor(50e-6, repeats=9),
        "waiting": measure_waiting(),
        "slow worker": slow,
        "second call": measure_second_call(),
        "serial overhead": measure_serial_overhead(),
        "memory": measure_memory(),
    }


def print_evaluations(result: dict[str, Any]) -> None:
    """Print the tables."""
    for name in ("2 ms", "50 us"):
        print(f"gradient of a function of {name}, n = {N_PARAMS:,}, two warm workers")
        for rival, row in result[name].items():
            print(f"  {rival:<34}{row['median_s']:>8.2f} s{row['relative']:>8.3f} times plain processes")
    print(f"evaluations of 20 ms that wait, {N_WAITING} workers: efficiency {result['waiting']:.3f}")
    print(f"one of {N_SLOW} workers ten times slower: {result['slow worker']:.3f} times the ideal")
    print(f"second call, empty function, n = 10, two warm workers: {result['second call'] * 1e3:.1f} ms")
    print(f"in this process, for each evaluation: {result['serial overhead'] * 1e6:.2f} us")
    for name, mb in result["memory"].items():
        print(f"memory, {name}: {mb:.0f} MiB")


if __name__ == "__main__":
    print_evaluations(compare_evaluations())
