"""What a step costs beside its kernels: the whole training loop on workers that compute nothing.

    python -m benchmarks.overhead

The job has the parameters, the batches, the plan, the update and the run folder of the main
job; only its slices of the gradient are zeros, made at once. So the time of a step is what is
left: sending parameters, calling workers, gathering and assembling slices, planning, updating
and recording. Many workers share few cores here, as the point is what each of them adds.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.timing import spread
from distnum.networks.propagation.objective import Propagation
from distnum.storage.run_folder import RunFolder
from distnum.training.config import Config
from distnum.training.loop import run_steps
from distnum.training.prepare import network_job
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.serial_pool import SerialPool


class _IdlePoint:
    """A loss, costs and slices that cost nothing."""

    loss = 1.0
    group_s = None

    def __init__(self, objective: IdlePropagation) -> None:
        self._objective = objective

    @property
    def costs(self) -> np.ndarray:
        return self._objective.any_costs

    def grad_slice(self, shard: np.ndarray, grad: np.ndarray) -> None:
        grad[:] = 0


class IdlePropagation(Propagation):
    """A network's objective whose gradient is zero and takes no time."""

    @cached_property
    def any_costs(self) -> np.ndarray:
        return np.ones(len(self.tiles) - 1)

    def at(self, params: np.ndarray, batch: Any, n_threads: int = 1, others: Any = None) -> Any:
        return _IdlePoint(self)


def measure(n_workers: int, n_steps: int = 200, n_warmup: int = 30) -> dict[str, Any]:
    """Seconds of a step of the main job with idle kernels on so many Ray workers (0: in this process)."""
    config = Config(workers=n_workers, steps=n_steps + n_warmup)
    job = network_job(config)
    idle = IdlePropagation(job.objective.network, config.scheme, config.step_size)
    job = replace(job, objective=idle)
    pool: Any = RayPool(idle, job.batch_at, n_workers) if n_workers else SerialPool(idle, job.batch_at)
    times = []
    with tempfile.TemporaryDirectory() as folder, pool:
        run = RunFolder.create(Path(folder) / "run", job.folder_config())
        started = perf_counter()
        for step in run_steps(job, pool, job.initial):
            run.append(step.row())
            ended = perf_counter()
            times.append(ended - started)
            started = ended
        run.close()
    return {"n_workers": n_workers, "step": spread(times[n_warmup:])}


def measure_all(counts: tuple[int, ...] = (0, 1, 2, 8, 32)) -> list[dict[str, Any]]:
    """``measure`` for several numbers of workers."""
    return [measure(count) for count in counts]


def print_overhead(rows: list[dict[str, Any]]) -> None:
    """A line for each number of workers."""
    print("A step of 784-50-10 on workers that compute nothing (median, min - max)\n")
    for row in rows:
        s = row["step"]
        print(
            f"  {row['n_workers']:3} workers {s['median_s'] * 1e3:8.1f} ms   "
            f"({s['min_s'] * 1e3:.1f} - {s['max_s'] * 1e3:.1f})"
        )


if __name__ == "__main__":
    print_overhead(measure_all())
