"""Where a job runs: what its steps will cost, how many workers pay, and the pool that follows."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from time import perf_counter

import numpy as np

from distnum.checkpoints import State
from distnum.errors import TrainingError
from distnum.jobs import Job
from distnum.loop import run_steps
from distnum.pools import Pool, RayPool, SerialPool, single_threaded_blas

__all__ = ["best_n_workers", "estimate_gradient_s", "estimate_step_s", "open_pool"]

# Measured: what one more worker adds to a step, and what a step costs beside computing.
_CALL_S = 0.0015
_ROUND_TRIP_S = 0.004
_ESTIMATE_FOR_S = 0.1
_TRIAL_STEPS = 8
_TRIAL_FOR_S = 1.0


def estimate_gradient_s(job: Job) -> float:
    """Seconds that one core needs for one gradient, from computing some of its tiles here."""
    params = job.initial.params.copy()
    with single_threaded_blas():
        point = job.objective.at(params, job.batch_at(1))
        costs = point.costs
        order = np.argsort(-costs, kind="stable")
        if job.objective.thread_safe:
            point.grad_slice(order[:1])  # compiles, or loads what was compiled, outside the measurement
        n_tiles = 1
        while True:
            # Evenly through the costs, so that the sample is like the whole.
            sample = np.sort(order[np.linspace(0, len(order) - 1, n_tiles).astype(np.int64)])
            started = perf_counter()
            point.grad_slice(np.unique(sample))
            elapsed = perf_counter() - started
            if elapsed > _ESTIMATE_FOR_S or n_tiles >= len(order):
                share = costs[np.unique(sample)].sum() / max(costs.sum(), 1e-300)
                return float(elapsed / max(share, 1e-12)) if share else elapsed
            n_tiles = min(8 * n_tiles, len(order))


def best_n_workers(gradient_s: float, n_cpus: int, n_nodes: int = 1) -> int:
    """The number of workers with the shortest step: computing is shared, calls add up."""
    candidates = range(max(1, min(n_nodes, n_cpus)), max(1, n_cpus) + 1)
    return min(candidates, key=lambda k: gradient_s / k + _CALL_S * k)


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
        for _ in islice(run_steps(job, pool, state), _TRIAL_STEPS):
            ended.append(perf_counter())
    # The first step loads what workers need.
    return float(np.median(np.diff(ended)[1:])) if len(ended) > 2 else expected_s


def open_pool(job: Job, gradient_s: float | None = None) -> Pool:
    """The pool that the configuration asks for.

    Args:
        job: what it will compute.
        gradient_s: what a gradient costs, for ``workers = "auto"``; estimated if not given.

    Raises:
        InputError: the cluster cannot be had.
    """
    config = job.config
    n_threads = 1 if config.threads_per_worker == "auto" else int(config.threads_per_worker)
    if config.workers == 0:
        return SerialPool(job.objective, job.batch_at, n_threads)
    if config.workers == "auto":
        work_s = gradient_s if gradient_s is not None else estimate_gradient_s(job)

        def n_workers(n_cpus: int, n_nodes: int) -> int:
            return best_n_workers(work_s, n_cpus // n_threads, n_nodes)

        return RayPool(job.objective, job.batch_at, n_workers, n_threads, config.address)
    return RayPool(job.objective, job.batch_at, int(config.workers), n_threads, config.address)
