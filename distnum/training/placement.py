"""Chooses where a job runs: estimates what its steps cost, how many workers pay off, and opens the pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from distnum.common.errors import TrainingError
from distnum.common.events import OnEvent, log_event
from distnum.common.machine import n_cores, single_threaded_blas
from distnum.networks.activations import CUSTOM
from distnum.storage.checkpoints import State
from distnum.training.fields import resources_of, workers_range
from distnum.training.job import Job
from distnum.training.kept_evaluations import KeptEvaluations
from distnum.training.kept_process import process_kept
from distnum.training.loop import run_steps
from distnum.training.subject import FunctionSubject
from distnum.workers.pool import Pool
from distnum.workers.ray_pool.pool import RayPool, WorkerCounts
from distnum.workers.serial_pool import SerialPool
from distnum.workers.worker import Worker

if TYPE_CHECKING:
    from distnum.training.function_pool import FunctionPool

__all__ = ["best_counts", "estimate_gradient_s", "estimate_step_s", "open_pool", "open_tiled_pool"]


# Measured (benchmarks.overhead, benchmarks.scaling): seconds that one more worker and one more
# thread of a worker add to a step, and overhead of a step on workers.
_CALL_S = 0.0025
_THREAD_S = 0.0025
_ROUND_TRIP_S = 0.004
# Fraction of a network's gradient that every worker repeats, and that one thread computes alone.
_REPEATED, _SERIAL = 0.15, 0.1
# A gradient is estimated from tiles that take this long.
_ESTIMATE_FOR_S = 0.1
# Short steps are estimated from this many trial steps, if they take at most this long.
_TRIAL_STEPS, _TRIAL_FOR_S = 8, 1.0


def estimate_gradient_s(job: Job) -> float:
    """Estimate the seconds of one gradient on one core, by computing some of its tiles in this process."""
    params = job.initial.params.copy()
    grad = np.empty_like(params)
    with single_threaded_blas():
        point = job.objective.at(params, job.batch_at(1))
        costs = point.costs
        order = np.argsort(-costs, kind="stable")
        if job.objective.thread_safe:
            # Warm up with tiles of every layer, so that compiling is not measured.
            point.compute(np.unique(np.linspace(0, len(order) - 1, 64).astype(np.int64)), grad)
        started = perf_counter()
        point.compute(order[-1:], grad)
        setup_s = perf_counter() - started  # the cheapest tile: time that does not grow with the tiles
        n_tiles = 1
        while True:
            # Tiles evenly spaced by cost represent all tiles.
            sample = np.unique(order[np.linspace(0, len(order) - 1, n_tiles).astype(np.int64)])
            started = perf_counter()
            point.compute(sample, grad)
            elapsed = perf_counter() - started
            if elapsed > _ESTIMATE_FOR_S or n_tiles >= len(order):
                share = costs[sample].sum() / max(costs.sum(), 1e-300)
                if not share:
                    return elapsed
                return float(setup_s + max(elapsed - setup_s, 0.1 * elapsed) / share)
            n_tiles = min(8 * n_tiles, len(order))


def _load_kernels(job: Job) -> None:
    """Load or compile the kernels of a network's gradient, in this process."""
    with single_threaded_blas():
        Worker(job.objective, job.batch_at).warm_up(job.initial.params)


def best_counts(
    gradient_s: float, n_cpus: int, n_nodes: int = 1, n_threads: int | None = None, threads_pay: bool = True
) -> tuple[int, int]:
    """Numbers of workers, and of threads of each, that minimise the time of a step.

    Computing is shared among the workers; the time of sending tasks to them grows with their number.

    Args:
        gradient_s: Seconds of a gradient on one core.
        n_cpus, n_nodes: CPUs and nodes of the cluster; every node gets a worker.
        n_threads: Threads of each worker, if the user has chosen that.
        threads_pay: Whether a worker can use more than one thread.

    >>> best_counts(0.003, n_cpus=2), best_counts(0.02, n_cpus=2), best_counts(0.02, n_cpus=2, threads_pay=False)
    ((1, 1), (1, 2), (2, 1))
    """
    n_nodes = max(1, min(n_nodes, n_cpus))
    threads = [n_threads] if n_threads else range(1, (n_cpus // n_nodes if threads_pay else 1) + 1)
    candidates = [(k, t) for t in threads for k in range(n_nodes, max(n_nodes, n_cpus // t) + 1)]

    def step_s(counts: tuple[int, int]) -> float:
        k, t = counts
        repeated, serial = (_REPEATED, _SERIAL) if threads_pay else (0, 0)
        compute_s = gradient_s * (repeated + (1 - repeated) / k) * (serial + (1 - serial) / t)
        return compute_s + _CALL_S * k + _THREAD_S * (t - 1)

    return min(candidates, key=step_s)


def estimate_step_s(job: Job, pool: Pool, state: State, gradient_s: Callable[[], float]) -> float:
    """Estimate the seconds of a step with a pool; if steps are short, from trial steps that are thrown away.

    Args:
        job, pool: What is computed, and where.
        state: State that the training begins with.
        gradient_s: Returns the seconds of a gradient of a network on one core.
    """
    if isinstance(job.subject, FunctionSubject):
        expected_s = cast("FunctionPool", pool).estimate_step_s(state.step + 1, state.params)
    else:
        overhead_s = 0.0 if job.config.workers == 0 else _CALL_S * pool.n_workers + _ROUND_TRIP_S
        expected_s = gradient_s() / (pool.n_threads * pool.n_workers) + overhead_s
    if expected_s * _TRIAL_STEPS > _TRIAL_FOR_S:
        return expected_s
    ended = [perf_counter()]
    with suppress(TrainingError):  # the training itself will raise it again
        for _ in islice(run_steps(job, pool, state, on_event=lambda event: None), _TRIAL_STEPS):
            ended.append(perf_counter())
    # The first step also loads code.
    return float(np.median(np.diff(ended)[1:])) if len(ended) > 2 else expected_s


def open_pool(
    job: Job,
    gradient_s: Callable[[], float] | None = None,
    on_event: OnEvent = log_event,
    kept: KeptEvaluations | None = None,
) -> Pool:
    """Open the pool that trains a job.

    Args:
        job: Job to compute.
        gradient_s: Returns the seconds of a gradient of a network on one core, for ``workers = "auto"``; by default
            an estimate.
        on_event: Called with an event when a worker joins, is lost or fails to start.
        kept: Keeps the evaluations of a function's long steps.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs.
        TrainingError: The workers do not start.
    """
    if isinstance(job.subject, FunctionSubject):
        from distnum.training.function_pool import FunctionPool  # networks need none of what it imports

        return FunctionPool(job.subject.request, job.config, on_event, kept)
    return open_tiled_pool(job, gradient_s, on_event)


def open_tiled_pool(job: Job, gradient_s: Callable[[], float] | None = None, on_event: OnEvent = log_event) -> Pool:
    """Open the pool that computes a job's objective in tiles: for networks, and for what ``scale`` measures.

    Args:
        job, gradient_s, on_event: As for ``open_pool``.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs.
        TrainingError: The workers do not start.
    """
    config, threads_pay = job.config, job.objective.thread_safe
    asked = None if config.threads_per_worker == "auto" else int(config.threads_per_worker)
    if config.workers == 0:
        return SerialPool(job.objective, job.batch_at, asked or (n_cores() if threads_pay else 1))
    least, most = workers_range(config.workers)
    estimate = gradient_s if gradient_s is not None else cache(partial(estimate_gradient_s, job))
    # Kernels are loaded or compiled while Ray starts. The user's own code runs before that: Ray's start
    # changes the environment, and its errors are not the user's.
    own_code = not threads_pay or config.activation.startswith(CUSTOM)
    if own_code and (most is None or gradient_s is not None):
        with process_kept():
            estimate()
    n_workers: int | Callable[[int, int], WorkerCounts]
    if most is None:

        def n_workers(n_cpus: int, n_nodes: int) -> WorkerCounts:
            k, t = best_counts(estimate(), n_cpus, n_nodes, n_threads=asked, threads_pay=threads_pay)
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
        last_step=config.steps,
        meanwhile=(lambda: None) if own_code else partial(_load_kernels, job),
        on_event=on_event,
    )
