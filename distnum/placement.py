"""Where a job runs: what its steps will cost, how many workers pay, and the pool that follows."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from distnum.errors import InputError
from distnum.jobs import Job
from distnum.pools import Pool, RayPool, SerialPool, single_threaded_blas

__all__ = ["best_n_workers", "estimate_gradient_s", "estimate_step_s", "open_pool"]

# Measured: what one more worker adds to a step, and what a step costs beside computing.
_CALL_S = 0.0015
_ROUND_TRIP_S = 0.004
_ESTIMATE_FOR_S = 0.1


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


def estimate_step_s(gradient_s: float, pool: Pool) -> float:
    """Seconds that a step will take with a pool."""
    if isinstance(pool, SerialPool):
        return gradient_s
    return gradient_s / pool.n_workers + _CALL_S * pool.n_workers + _ROUND_TRIP_S


def open_pool(job: Job, gradient_s: float | None = None) -> Pool:
    """The pool that the configuration asks for.

    Args:
        job: what it will compute.
        gradient_s: what a gradient costs, for ``workers = "auto"``; estimated if not given.

    Raises:
        InputError: the objective cannot run so, or the cluster cannot be had.
    """
    config = job.config
    n_threads = 1 if config.threads_per_worker == "auto" else int(config.threads_per_worker)
    if n_threads > 1 and not job.objective.thread_safe:
        raise InputError(
            f"threads_per_worker is {n_threads}, but whole loss functions are evaluated by one thread a worker; "
            "use more workers instead."
        )
    if config.workers == 0:
        if config.address is not None:
            raise InputError(f"address is {config.address!r}, but workers is 0, which uses no Ray; leave one out.")
        return SerialPool(job.objective, job.batch_at, n_threads)
    if config.workers == "auto":
        work_s = gradient_s if gradient_s is not None else estimate_gradient_s(job)

        def n_workers(n_cpus: int, n_nodes: int) -> int:
            return best_n_workers(work_s, n_cpus // n_threads, n_nodes)

        return RayPool(job.objective, job.batch_at, n_workers, n_threads, config.address)
    return RayPool(job.objective, job.batch_at, int(config.workers), n_threads, config.address)
