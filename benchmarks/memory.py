"""Peak memory of a worker for wide networks and large batches.

python -m benchmarks.memory
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

SETTINGS = [((784, 50, 10), 100), ((784, 2000, 10), 1000), ((784, 2000, 10), 4000), ((784, 2000, 2000, 10), 1000)]

# Each setting runs in its own process, as a worker does. VmHWM is the peak of that process on Linux;
# the value of getrusage starts with the peak of the parent process.
CODE = """
from functools import partial
from distnum.common.machine import single_threaded_blas
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.workers.tiles import all_tiles
from distnum.workers.worker import Task, Worker
from distnum.networks.propagation.objective import Propagation
import numpy as np
network = Network({sizes})
objective = Propagation(network)
params = network.initial_params()
grad = np.empty_like(params)
worker = Worker(objective, partial(batch_at, load_data(), 0, {batch_size}, np.float64))
with single_threaded_blas():
    for step in (1, 2):
        worker.compute(Task(step, step, all_tiles(objective.tiles), first=True), params, grad)
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM")))
"""


def measure_memory() -> list[dict[str, Any]]:
    """Measure the peak memory, in MB, of a worker that computes whole gradients."""
    rows = []
    for sizes, batch_size in SETTINGS:
        code = CODE.format(sizes=sizes, batch_size=batch_size)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        network = "-".join(map(str, sizes))
        rows.append({"network": f"{network} relu, batch {batch_size:,}", "peak_mb": float(done.stdout)})
    return rows


def print_memory(rows: list[dict[str, Any]]) -> None:
    """Print what ``measure_memory`` returned."""
    print("Peak memory of a worker that computes whole gradients, including interpreter and libraries\n")
    for row in rows:
        print(f"  {row['network']:<36} {row['peak_mb']:6.0f} MB")


if __name__ == "__main__":
    print_memory(measure_memory())
