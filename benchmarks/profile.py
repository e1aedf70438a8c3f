"""Time of each phase of a gradient, on one core.

python -m benchmarks.profile
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.machine import single_threaded_blas
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.networks.propagation.kernel_inputs import n_columns
from distnum.networks.propagation.objective import Propagation
from distnum.networks.propagation.routes import UnitRoutes

SETTINGS: list[tuple[tuple[int, ...], int, str]] = [
    ((784, 50, 10), 100, "relu"),
    ((784, 50, 10), 100, "tanh"),
    ((784, 500, 10), 1000, "relu"),
    ((784, 256, 256, 10), 500, "relu"),
    ((784, 50, 50, 10), 100, "tanh"),
]
PHASES = ("batch", "forward", "units", "rows")


def profile(sizes: tuple[int, ...], batch_size: int, activation: str, repeats: int = 7) -> dict[str, Any]:
    """Measure the median seconds of each phase of a gradient.

    ``batch`` draws the examples, ``forward`` is the forward pass, ``units`` the preparation of the units for
    a block of examples, ``rows`` the compiled loops over all rows of a layer.
    """
    network, dataset = Network(sizes, activation), load_data()
    params, objective = network.initial_params(), Propagation(network)
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    with single_threaded_blas():
        for repeat in range(repeats + 1):
            seconds = dict.fromkeys(PHASES, 0.0)
            started = perf_counter()
            batch = batch_at(dataset, 0, batch_size, np.float64, repeat + 1)
            seconds["batch"] = perf_counter() - started
            started = perf_counter()
            base = objective.at(params, batch)._base
            seconds["forward"] = perf_counter() - started
            for group in objective.unit_groups:
                rows = np.arange(network.layers[group.number].n_rows)
                total = np.zeros((len(rows), n_columns(group.n_units)))
                for block in base.blocks(group.number, group.n_units):
                    started = perf_counter()
                    routes = UnitRoutes(base, group.number, group.units, block)
                    prepared = perf_counter()
                    routes.add(rows, total)
                    seconds["units"] += prepared - started
                    seconds["rows"] += perf_counter() - prepared
            if repeat:  # the first repeat compiles
                for phase in PHASES:
                    times[phase].append(seconds[phase])
    medians = {phase: median(values) for phase, values in times.items()}
    return {"network": f"{network} {activation}, batch {batch_size}", "seconds": medians}


def profile_all() -> list[dict[str, Any]]:
    """Profile all settings."""
    return [profile(*setting) for setting in SETTINGS]


def print_profile(rows: list[dict[str, Any]]) -> None:
    """Print what ``profile_all`` returned."""
    print("Time of a gradient and share of each phase, on one core (medians)\n")
    print(f"  {'':<34} {'total':>10} " + " ".join(f"{phase:>9}" for phase in PHASES))
    for row in rows:
        seconds = row["seconds"]
        total = sum(seconds.values())
        shares = " ".join(f"{seconds[phase] / total:9.0%}" for phase in PHASES)
        print(f"  {row['network']:<34} {total * 1e3:7.1f} ms {shares}")


if __name__ == "__main__":
    print_profile(profile_all())
