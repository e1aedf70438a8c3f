"""Where a job runs: what its steps will cost, how many workers pay, and the pool that follows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from time import perf_counter

import numpy as np

from distnum.common.errors import TrainingError
from distnum.common.events import OnEvent, log_event
from distnum.common.machine import n_cores, single_threaded_blas
from distnum.storage.checkpoints import State
from distnum.training.fields import resources_of, workers_range
from distnum.training.job import Job
from distnum.training.loop import run_steps
from distnum.workers.pool import Pool
from distnum.workers.ray_pool.pool import RayPool, WorkerCounts
from distnum.workers.serial_pool import SerialPool

__all__ = ["best_counts", "estimate_gradient_s", "estimate_step_s", "open_pool"]


# Measured (benchmarks.overhead, benchmarks.scaling): what one more worker adds to a step, what one
# more thread of a worker does, and what a step costs beside computing.
_CALL_S = 0.0025
_THREAD_S = 0.0025

# The share of a network's gradient that every worker computes for itself, and that one thread does.
_REPEATED, _SERIAL = 0.15, 0.1
_ROUND_TRIP_S = 0.004
_ESTIMATE_FOR_S = 0.1
_TRIAL_STEPS = 8
_TRIAL_FOR_S = 1.0


def estimate_gradient_s(job: Job) -> float:
    """Seconds that one core needs for one gradient, from computing some of its tiles here."""
    params = job.initial.params.copy()
    grad = np.empty_like(params)
    with single_threaded_blas():
        point = job.objective.at(params, job.batch_at(1))
        costs = point.costs
        order = np.argsort(-costs, kind="stable")
        if job.objective.thread_safe:
            # Compiles, or loads what was compiled, outside the measurement: some tiles of every layer.
            point.grad_slice(np.unique(np.linspace(0, len(order) - 1, 64).astype(np.int64)), grad)
        started = perf_counter()
        point.grad_slice(order[-1:], grad)
        setup_s = perf_counter() - started  # of the cheapest tile: what does not grow with the tiles
        n_tiles = 1
        while True:
            # Evenly through the costs, so that the sample is like the whole.
            sample = np.unique(order[np.linspace(0, len(order) - 1, n_tiles).astype(np.int64)])
            started = perf_counter()
            point.grad_slice(sample, grad)
            elapsed = perf_counter() - started
            if elapsed > _ESTIMATE_FOR_S or n_tiles >= len(order):
                share = costs[sample].sum() / max(costs.sum(), 1e-300)
                if not share:
                    return elapsed
                return float(setup_s + max(elapsed - setup_s, 0.1 * elapsed) / share)
            n_tiles = min(8 * n_tiles, len(order))


def best_counts(
    gradient_s: float, n_cpus: int, n_nodes: int = 1, n_threads: int | None = None, threads_pay: bool = True
) -> tuple[int, int]:
    """How many workers, and threads of each, make the shortest step: computing is shared, calls add up.

    Args:
        gradient_s: what a gradient costs on one core.
        n_cpus, n_nodes: of the cluster; every node gets a worker.
        n_threads: of each worker where the user has decided that.
        threads_pay: whether a worker can use more than one.

    >>> best_counts(0.003, n_cpus=2), best_counts(0.02, n_cpus=2), best_counts(0.02, n_cpus=2, threads_pay=False)
    ((1, 1), (1, 2), (2, 1))
    """
    n_nodes = max(1, min(n_nodes, n_cpus))
    threads = [n_threads] if n_threads else range(1, (n_cpus // n_nodes if threads_pay else 1) + 1)
    candidates = [(k, t) for t in threads for k in range(n_nodes, max(n_nodes, n_cpus // t) + 1)]

    def step_s(layout: tuple[int, int]) -> float:
        k, t = layout
        repeated, serial = (_REPEATED, _SERIAL) if threads_pay else (0, 0)
        compute_s = gradient_s * (repeated + (1 - repeated) / k) * (serial + (1 - serial) / t)
        return compute_s + _CALL_S * k + _THREAD_S * (t - 1)

    return min(candidates, key=step_s)


def estimate_step_s(job: Job, pool: Pool, state: State, gradient_s: float) -> float:
    """Seconds that a step will take with a pool: of a few steps whose results are thrown away, if they are short.

    Args:
        job, pool: what is computed, and where.
        state: where the training begins.
        gradient_s: what a gradient costs on one core.
    """
    serial = isinstance(pool, SerialPool)
    overhead_s = 0.0 if serial else _CALL_S * pool.n_workers + _ROUND_TRIP_S
    expected_s = gradient_s / (pool.n_threads * pool.n_workers) + overhead_s
    if expected_s * _TRIAL_STEPS > _TRIAL_FOR_S:
        return expected_s
    ended = [perf_counter()]
    with suppress(TrainingError):  # the training itself will meet it again, and say so
        for _ in islice(run_steps(job, pool, state, on_event=lambda event: None), _TRIAL_STEPS):
            ended.append(perf_counter())
    # The first step loads what workers need.
    return float(np.median(np.diff(ended)[1:])) if len(ended) > 2 else expected_s


def open_pool(job: Job, gradient_s: float | None = None, on_event: OnEvent = log_event) -> Pool:
    """The pool that the configuration asks for.

    Args:
        job: what it will compute.
        gradient_s: what a gradient costs, for ``workers = "auto"``; estimated if not given.
        on_event: called with each event: workers that come and go.

    Raises:
        InputError: the cluster cannot be had.
    """
    config, threads_pay = job.config, job.objective.thread_safe
    asked = None if config.threads_per_worker == "auto" else int(config.threads_per_worker)
    if config.workers == 0:
        return SerialPool(job.objective, job.batch_at, asked or (n_cores() if threads_pay else 1))
    least, most = workers_range(config.workers)
    n_workers: int | Callable[[int, int], WorkerCounts]
    if most is None:
        work_s = gradient_s if gradient_s else estimate_gradient_s(job)

        def n_workers(n_cpus: int, n_nodes: int) -> WorkerCounts:
            k, t = best_counts(work_s, n_cpus, n_nodes, n_threads=asked, threads_pay=threads_pay)
            return WorkerCounts(least=1, most=k, at_start=k, n_threads=t)

    elif least < most:

        def n_workers(n_cpus: int, n_nodes: int) -> WorkerCounts:
            k = max(least, min(most, n_cpus // (asked or 1)))
            return WorkerCounts(least, k, at_start=least, n_threads=asked or 1)

    else:
        n_workers = most
    return RayPool(
        job.objective,
        job.batch_at,
        n_workers,
        asked or 1,
        config.address,
        job.initial.params.dtype,
        deadline_s=None if config.step_deadline == "auto" else float(config.step_deadline),
        wait_s=config.wait_for_workers,
        warm_up=job.initial.params if threads_pay else None,
        n_asked=least,
        resources=resources_of(config.resources),
        on_event=on_event,
    )
