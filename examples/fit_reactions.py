"""Fit the 30 rate constants of a chain of chemical reactions to measurements, with derivatives on warm workers.

Sixteen substances turn into each other along a chain, forward and backward. Their concentrations follow a stiff
system of differential equations, which a solver integrates; nothing differentiates the solver. SciPy's
``least_squares`` fits the logarithms of the rate constants to noisy measurements and gets its Jacobian from distnum:
61 solutions of the system for each Jacobian, shared among the workers.

    python examples/fit_reactions.py --workers 2

At the end the time of one Jacobian on the workers is compared with its time in this process.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import distnum

N_SUBSTANCES = 16
TIMES = np.geomspace(0.01, 20, 25)


def concentrations(log_rates: np.ndarray) -> np.ndarray:
    """Concentrations of all substances at the times of measurement, shape ``(25, 16)``."""
    forward, backward = np.exp(log_rates).reshape(2, N_SUBSTANCES - 1)

    def change(_: float, c: np.ndarray) -> np.ndarray:
        flow = forward * c[:-1] - backward * c[1:] * c[1:]
        return np.concatenate([[0.0], flow]) - np.concatenate([flow, [0.0]])

    start = np.zeros(N_SUBSTANCES)
    start[0] = 1.0
    solution = solve_ivp(change, (0.0, TIMES[-1]), start, "LSODA", TIMES, rtol=1e-9, atol=1e-12)
    return solution.y.T


def residuals(log_rates: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Differences between the model and the measurements, shape ``(400,)``."""
    return (concentrations(log_rates) - measured).ravel()


def fit(workers: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """The true logarithms of the rates, the measurements, and the result of the fit."""
    rng = np.random.default_rng(1)
    true = rng.normal(1.0, 0.5, 2 * (N_SUBSTANCES - 1))
    measured = concentrations(true) + 1e-5 * rng.standard_normal((len(TIMES), N_SUBSTANCES))
    guess = true + 0.3 * rng.standard_normal(len(true))
    jacobian = distnum.jacobian_of(residuals, workers=workers)
    result = least_squares(residuals, guess, jac=jacobian, args=(measured,), x_scale="jac", max_nfev=30)
    return true, measured, result


def seconds_of_jacobian(log_rates: np.ndarray, measured: np.ndarray, workers: Any) -> float:
    """Seconds of one Jacobian, the shorter of two times."""
    times = []
    for _ in range(2):
        began = perf_counter()
        distnum.jacobian(residuals, log_rates, args=(measured,), workers=workers)
        times.append(perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    n_workers = parser.parse_args().workers
    with distnum.Evaluator(n_workers) if n_workers else nullcontext(0) as workers:
        began = perf_counter()
        true, measured, result = fit(workers)
        print(f"{result.njev} Jacobians in {perf_counter() - began:.1f} s; sum of squares {2 * result.cost:.3g}")
        print(f"largest error of a rate constant: {np.abs(np.expm1(result.x - true)).max():.2%}")
        if n_workers:
            alone, shared = (seconds_of_jacobian(result.x, measured, one) for one in (0, workers))
            print(f"one Jacobian: {alone:.2f} s in this process, {shared:.2f} s on {n_workers} workers,", end=" ")
            print(f"{alone / shared:.2f} times as fast")


if __name__ == "__main__":
    main()
