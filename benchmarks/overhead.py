"""Overhead of a step: the whole training loop with workers that compute nothing.

    python -m benchmarks.overhead

The job has the parameters, batches, plan, update and run folder of the default job, but its slices of the
gradient are zeros that take no time. The time of a step is then its overhead: sending parameters,
asking workers, gathering slices, planning, updating and recording. Many workers share few cores here,
because the time that each of them adds is measured.
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
    """A point whose loss, costs and slices take no time."""

    value = 1.0
    group_s = None

    def __init__(self, objective: IdlePropagation) -> None:
        self._objective = objective

    @property
    def costs(self) -> np.ndarray:
        return self._objective.any_costs

    def compute(self, shard: np.ndarray, answers: np.ndarray) -> None:
        answers[:] = 0


class IdlePropagation(Propagation):
    """A network whose gradient is zero and takes no time."""

    @cached_property
    def any_costs(self) -> np.ndarray:
        return np.ones(len(self.tiles) - 1)

    def at(self, params: np.ndarray, batch: Any, n_threads: int = 1) -> Any:
        return _IdlePoint(self)

    def at_with_peers(self, params: np.ndarray, batch: Any, n_threads: int, peers: Any) -> Any:
        return _IdlePoint(self)


def measure(n_workers: int, n_steps: int = 200, n_warmup: int = 30) -> dict[str, Any]:
    """Time a step of the default job with idle kernels on ``n_workers`` Ray workers (0: in this process)."""
    config = Config(workers=n_workers, steps=n_steps + n_warmup)
    job = network_job(config)
    idle = IdlePropagation(job.subject.network, config.scheme, config.step_size)
    job = replace(job, objective=idle)
    pool: Any = SerialPool(idle, job.batch_at)
    if n_workers:
        pool = RayPool(idle, job.batch_at, n_workers, last_step=config.steps)
    times = []
    with tempfile.TemporaryDirectory() as folder, pool:
        run = RunFolder.create(Path(folder) / "run", job.folder_config())
        started = perf_counter()
        for step in run_steps(job, pool, job.initial):
            run.rows.append(step.row())
            ended = perf_counter()
            times.append(ended - started)
            started = ended
        run.close()
    return {"n_workers": n_workers, "step": spread(times[n_warmup:])}


def measure_all(counts: tuple[int, ...] = (0, 1, 2, 8, 32)) -> list[dict[str, Any]]:
    """Measure several numbers of workers."""
    return [measure(count) for count in counts]


def print_overhead(rows: list[dict[str, Any]]) -> None:
    """Print what ``measure_all`` returned."""
    print("A step of 784-50-10 on workers that compute nothing (median, min - max)\n")
    for row in rows:
        s = row["step"]
        print(
            f"  {row['n_workers']:3} workers {s['median_s'] * 1e3:8.1f} ms   "
            f"({s['min_s'] * 1e3:.1f} - {s['max_s'] * 1e3:.1f})"
        )


if __name__ == "__main__":
    print_overhead(measure_all())
