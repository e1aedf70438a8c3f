"""Scaling of a function that waits, as a simulator or an external program does, compared with a forecast.

    python -m benchmarks.waiting [DIR]      # writes the measurements and a plot to a folder

Every evaluation waits 20 ms. Waiting needs no cores, so a small machine shows how the driver's own work
scales. A model is fitted to up to 4 workers and forecasts the others.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distnum
from distnum.scaling.fit import fit_model
from distnum.scaling.model import Link
from distnum.scaling.result import ScalingResult
from distnum.scaling.simulation import System, simulate
from distnum.workers.tiles import balance, even_tiles, make_shards

WAIT_S = 0.02
WORKERS = (1, 2, 4, 8, 16, 32)
# Two evaluations each; 100 for each of 32 workers.
N_PARAMS = 1600


def wait(w: NDArray[np.floating], batch: None) -> float:
    """Return the squared norm of ``w`` after ``WAIT_S`` seconds."""
    time.sleep(WAIT_S)
    return float(w @ w)


def compare_waiting(repeats: int = 4, out: Path | None = None, progress: bool = False) -> dict[str, Any]:
    """Measure the efficiencies, and compare the steps with a model fitted to 1, 2 and 4 workers."""
    result: ScalingResult = distnum.scale(
        wait,
        np.ones(N_PARAMS),
        workers=WORKERS,
        steps=1,
        warmup=0,
        repeats=repeats,
        h=1e-6,
        out=out,
        on_measured=lambda one, n_left: print(one.workers, f"{one.step_s:.2f} s") if progress else None,
    )
    if out is not None:
        result.plot(out / "scaling.png")
    costs = np.diff(even_tiles(N_PARAMS, N_PARAMS)).astype(float)

    def planned(k: int) -> float:
        return balance(costs, make_shards(costs, k))

    fitted = [one for one in result.measurements if one.workers <= 4]
    model = fit_model(fitted, planned, 8 * N_PARAMS, Link())
    system = System.of(model, costs)
    rows = []
    for one in result.summaries:
        k = one.setting.workers
        rows.append(
            {
                "workers": k,
                "step_s": one.step_s.value,
                "speed_up": one.speed_up.value,
                "efficiency": one.efficiency._asdict(),
                "evaluations_per_worker": 2 * N_PARAMS // k,
                "forecast_s": float(model.step_s(k, 1)[0]),
                "simulated_s": float(np.median(simulate(system, k))),
            }
        )
    return {"wait_s": WAIT_S, "fitted_on": list(model.measured), "rows": rows}


def print_waiting(result: dict[str, Any]) -> None:
    """Print what ``compare_waiting`` returned."""
    wait_ms = result["wait_s"] * 1e3
    print(f"A function that waits {wait_ms:.0f} ms, {N_PARAMS:,} parameters; forecast from up to 4 workers\n")
    columns = ("workers", 7), ("evaluations", 11), ("a step", 9), ("speed-up", 8), ("efficiency", 10)
    columns += ("forecast", 16), ("simulated", 16)
    print("  " + " ".join(f"{name:>{width}}" for name, width in columns))
    for row in result["rows"]:
        step_s = row["step_s"]
        compared = [f"{s:7.2f} s ({s / step_s - 1:+.1%})" for s in (row["forecast_s"], row["simulated_s"])]
        print(
            f"  {row['workers']:>7} {row['evaluations_per_worker']:>11,} {step_s:7.2f} s {row['speed_up']:8.2f} "
            f"{row['efficiency']['value']:10.3f} {compared[0]:>16} {compared[1]:>16}"
        )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print_waiting(compare_waiting(out=folder, progress=True))
