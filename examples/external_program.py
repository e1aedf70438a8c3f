"""Fit the parameters of an external program to measurements, with the derivatives of its output.

``external_program/cooling`` is an executable that knows nothing of Python. It reads ``cooling.in`` and writes
``cooling.json``: the temperature of a cup of tea after each minute. SciPy finds the parameters for which these
temperatures are as close as possible to measured ones. For that it needs their derivatives with respect to the
parameters, which distnum finds by running the program at shifted parameters, each time in a folder of its own.

    python examples/external_program.py
    python examples/external_program.py --workers 2

The program is run about 60 times. It takes a few milliseconds, so that workers do not pay here. They do from about
50 ms on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

import distnum

FOLDER = Path(__file__).parent / "external_program"
MEASURED = np.array([77.0, 74.2, 71.4, 68.6, 66.5, 64.1, 61.8, 59.9, 57.9, 56.0, 54.2, 52.7, 50.9, 49.5, 48.0])
START = {"rate": 0.03, "room": 15.0, "start": 85.0}

cooling = distnum.Program(
    [FOLDER / "cooling", "cooling.in"],
    files={"cooling.in": FOLDER / "cooling.in"},
    read="json:cooling.json:temperatures",
    timeout=10,
)


def residuals(values: np.ndarray) -> np.ndarray:
    """Return computed minus measured temperatures, shape ``(15,)``, for the values of the parameters."""
    return cooling(dict(zip(START, values, strict=True))) - MEASURED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0, help="number of Ray workers; 0 for none (default: 0)")
    options = parser.parse_args()

    start = np.array(list(START.values()))
    if options.workers:
        with distnum.Evaluator(options.workers) as workers:
            fit = least_squares(residuals, start, jac=distnum.jacobian_of(residuals, workers=workers))
    else:
        fit = least_squares(residuals, start, jac=distnum.jacobian_of(residuals))

    print(f"before: at most {np.abs(residuals(start)).max():.1f} degrees from the measurements")
    print(f"after:  at most {np.abs(fit.fun).max():.1f} degrees, with {fit.njev} Jacobians")
    spread = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)) * np.mean(fit.fun**2))
    for name, value, error in zip(START, fit.x, spread, strict=True):
        print(f"{name:>5} = {value:.4g} ± {error:.1g}")


if __name__ == "__main__":
    main()
