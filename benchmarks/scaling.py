"""Speed-up of a second thread and of a second worker, for steps of about a tenth of a second or more.

    python -m benchmarks.scaling

The best speed-up of two threads on this machine is measured as well, with a loop that needs no memory:
virtual cores share resources.
"""

from __future__ import annotations

from functools import partial
from threading import Thread
from typing import Any

import numpy as np
from numba import njit

from benchmarks.timing import interleaved, paired_ratio, spread
from distnum.common.machine import single_threaded_blas
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.ray_pool.session import ray_session

SETTINGS = [
    ((784, 500, 10), 1000, "relu"),
    ((784, 500, 10), 500, "tanh"),
    ((784, 2000, 10), 500, "relu"),
    ((784, 256, 256, 10), 500, "relu"),
    ((784, 100, 100, 10), 500, "tanh"),
]


@njit(nogil=True)
def _spin(n: int) -> float:
    total = 0.0
    for i in range(n):
        total += 1.0 / (i + 1.0)
    return total


def _spin_on(n_threads: int) -> None:
    threads = [Thread(target=_spin, args=(100_000_000 // n_threads,)) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def compare_scaling(repeats: int = 9) -> dict[str, Any]:
    """Time a gradient on one and two threads, and on one and two Ray workers with one thread each."""
    dataset = load_data()
    rows = []
    with single_threaded_blas(), ray_session(None, 3, 3):
        for sizes, batch_size, activation in SETTINGS:
            network = Network(sizes, activation)
            params, objective = network.initial_params(), Propagation(network)
            source = partial(batch_at, dataset, 0, batch_size, np.float64)
            batch = source(1)

            def on_threads(n: int, batch: Any = batch, o: Any = objective, p: Any = params) -> None:
                whole_gradient(o, p, batch, n)

            with RayPool(objective, source, 1) as one, RayPool(objective, source, 2) as two:
                times = interleaved(
                    {
                        "1 thread": partial(on_threads, 1),
                        "2 threads": partial(on_threads, 2),
                        "1 worker": partial(one.compute, 1, params),
                        "2 workers": partial(two.compute, 1, params),
                        "a spin on 1 thread": partial(_spin_on, 1),
                        "a spin on 2 threads": partial(_spin_on, 2),
                    },
                    repeats,
                )
            rows.append(
                {
                    "network": f"{network} {activation}, batch {batch_size}",
                    "times": {name: spread(seconds) for name, seconds in times.items()},
                    "threads": paired_ratio(times["1 thread"], times["2 threads"]),
                    "threads_fastest": min(times["1 thread"]) / min(times["2 threads"]),
                    "workers": paired_ratio(times["1 worker"], times["2 workers"]),
                    "workers_fastest": min(times["1 worker"]) / min(times["2 workers"]),
                    "machine": paired_ratio(times["a spin on 1 thread"], times["a spin on 2 threads"]),
                }
            )
    return {"rows": rows}


def print_scaling(result: dict[str, Any]) -> None:
    """Print what ``compare_scaling`` returned."""
    print("Speed-up of two relative to one (median of rounds; in brackets, of the fastest runs)\n")
    print(f"  {'':<34} {'one thread':>11} {'threads':>14} {'workers':>14} {'machine':>8}")
    for row in result["rows"]:
        one_s = row["times"]["1 thread"]["median_s"]
        ratios = [f"{row[what]:7.2f} ({row[what + '_fastest']:.2f})" for what in ("threads", "workers")]
        print(f"  {row['network']:<34} {one_s * 1e3:8.0f} ms {' '.join(ratios)} {row['machine']:8.2f}")


if __name__ == "__main__":
    print_scaling(compare_scaling())
