"""Measure the same steps on different numbers of workers and threads, in turns.

One pool has all the workers, and each measurement uses some of them. All measurements start from the same
initial parameters, so that every setting does the same work with the same bits. The settings take turns,
repeat by repeat, so that a drift of the machine affects all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.checks import checked, choice, whole
from distnum.common.errors import InputError, TrainingError
from distnum.common.events import Event, log_event
from distnum.differentiation.black_box import LossFunction
from distnum.evaluation.forms import Params
from distnum.scaling.measurement import MODES, NOT_FOR_SCALE, ClusterNodes, Measurement, Setting
from distnum.storage.checkpoints import params_sha256
from distnum.training.config import Config
from distnum.training.job import Job
from distnum.training.loop import Step, run_steps
from distnum.training.placement import open_tiled_pool
from distnum.training.prepare import prepare
from distnum.workers.pool import BatchAt
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.tiles import balance, make_shards

__all__ = ["MeasuredJob", "measure_scaling", "plan_settings", "prepare_measured_job"]

# A measurement in which a worker was lost is repeated; at most this many are made.
_MOST_LOSSES = 3


@dataclass(frozen=True)
class MeasuredJob:
    """The job whose steps are measured.

    Attributes:
        job: The job; in weak scaling its default batch is that of the fewest workers.
        mode: One of ``MODES``.
        costs: Relative costs of the tiles, shape ``(n_tiles,)``.
    """

    job: Job
    mode: str
    costs: NDArray[np.float64]

    def planned_balance(self, n_workers: int) -> float:
        """Return the load of the busiest of ``n_workers`` workers, relative to the mean."""
        return balance(self.costs, make_shards(self.costs, n_workers, self.job.objective.groups))


class _GrowingBatches:
    """Batches for weak scaling: the variant is the number of workers, by default the smallest."""

    def __init__(self, sources: Mapping[int, BatchAt]) -> None:
        self._sources = sources

    def __call__(self, step: int, n_workers: int | None = None) -> Any:
        return self._sources[min(self._sources) if n_workers is None else n_workers](step)


def plan_settings(workers: Sequence[int], threads: Sequence[int]) -> list[Setting]:
    """Return all combinations of the numbers of workers and threads.

    Raises:
        InputError: A list is empty, or a number is repeated or invalid.
    """
    for name, numbers in (("workers", workers), ("threads", threads)):
        if len(numbers) == 0:
            raise InputError(f"{name} is empty; it must be numbers of at least 1, as in 1,2,4.")
        for number in numbers:
            if number == 0:
                raise InputError(f"{name} holds 0; a scaling experiment needs at least 1.")
            checked(name, number, whole(1, 100_000))
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{name} is {','.join(map(str, numbers))}; every number must be given only once.")
    return [Setting(int(k), int(t)) for t in threads for k in workers]


def prepare_measured_job(
    loss: str | LossFunction | None,
    params: Params | None,
    data: Any,
    config: Config | None,
    options: Mapping[str, Any],
    settings: Sequence[Setting],
    mode: str,
) -> MeasuredJob:
    """Return the job that the arguments of ``scale`` describe, with enough workers for all settings.

    Raises:
        InputError: An argument is invalid, or a setting cannot be measured.
    """
    checked("mode", mode, choice(*MODES))
    most = max(setting.workers for setting in settings)
    fixed = dict(zip(NOT_FOR_SCALE, (most, 1, 2**62, "stop"), strict=True))
    job = prepare(loss, params, data, config, {**options, **fixed})
    objective = job.objective
    if not objective.thread_safe and any(setting.threads > 1 for setting in settings):
        raise InputError(
            "threads is more than 1, but each worker evaluates whole loss functions with one thread; leave it out."
        )
    costs = objective.expected_costs(job.batch_at(1))
    if most > len(costs):
        raise InputError(
            f"workers holds {most:,}, but the {objective.n_params:,} parameters are cut into {len(costs):,} tiles; "
            "it must not be more, as some workers would have nothing to do."
        )
    if mode == "weak":
        job = _with_growing_batches(job, settings)
    return MeasuredJob(job, mode, costs)


def _with_growing_batches(job: Job, settings: Sequence[Setting]) -> Job:
    """Return the job with a batch for each number of workers: that multiple of the batch size."""
    job.subject.batches(job.config)  # refuses subjects whose batches cannot grow
    sources = {}
    for n_workers in sorted({setting.workers for setting in settings}):
        config = replace(job.config, batch_size=job.config.batch_size * n_workers)
        try:
            sources[n_workers] = job.subject.batches(config)
        except InputError as error:
            raise InputError(f"mode is 'weak' and workers holds {n_workers}: {error}") from None
    return replace(job, batch_at=_GrowingBatches(sources))


def measure_scaling(
    work: MeasuredJob,
    missing: Sequence[tuple[int, Setting]],
    n_steps: int,
    warmup: int,
    on_start: Callable[[ClusterNodes], None] = lambda nodes: None,
) -> Iterator[Measurement]:
    """Measure settings in the given order.

    Args:
        work: The job to measure.
        missing: Number of the repeat and setting of each measurement.
        n_steps: Steps of each measurement.
        warmup: Steps before each measurement that are not measured.
        on_start: Called with the nodes of the workers when they are ready.

    Raises:
        InputError: The workers cannot be started.
        TrainingError: Workers are lost repeatedly.
    """
    lost: list[Event] = []

    def on_event(event: Event) -> None:
        if event.kind == "worker_lost":
            lost.append(event)
        log_event(event)

    with open_tiled_pool(work.job, on_event=on_event) as pool:
        assert isinstance(pool, RayPool)
        on_start(ClusterNodes(_asked_over(pool), tuple(pool.node_cpus()), len(pool.node_cpus(used=True))))
        for repeat, setting in missing:
            for _ in range(_MOST_LOSSES):
                lost.clear()
                measurement = _measured(work, pool, setting, repeat, n_steps, warmup)
                if not lost:
                    break
                pool.wait_for(max(one.workers for _, one in missing))
            else:
                raise TrainingError(f"Workers were lost in {_MOST_LOSSES} measurements of {setting} workers in a row.")
            yield measurement


def _measured(
    work: MeasuredJob, pool: RayPool, setting: Setting, repeat: int, n_steps: int, warmup: int
) -> Measurement:
    """Measure one setting, starting from the initial state."""
    pool.use(setting.workers, setting.threads, setting.workers if work.mode == "weak" else None)
    rows: list[dict[str, float]] = []
    state = work.job.initial
    started = perf_counter()
    for number, step in enumerate(islice(run_steps(work.job, pool, state), warmup + n_steps)):
        if number >= warmup:
            rows.append(_seconds_of(step, perf_counter() - started))
        state = step.state
        started = perf_counter()
    medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    return Measurement(
        mode=work.mode,
        workers=setting.workers,
        threads=setting.threads,
        nodes=len(pool.node_cpus(used=True)),
        repeat=repeat,
        steps=n_steps,
        warmup=warmup,
        planned_balance=work.planned_balance(setting.workers),
        cores=sum(pool.node_cpus(used=True)),
        asked_over=_asked_over(pool),
        params_sha256=params_sha256(state.params),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **medians,
    )


def _asked_over(pool: RayPool) -> str:
    return "sockets" if pool.own_session else "Ray"


def _seconds_of(step: Step, step_s: float) -> dict[str, float]:
    """Return the quantities of ``Measurement`` for one step."""
    timings = step.timings
    row = {
        "broadcast_s": timings.broadcast_s,
        "dispatch_s": timings.dispatch_s,
        "compute_s": timings.compute_s,
        "gather_s": step.dispatch_gather_s - timings.broadcast_s - timings.dispatch_s,
        "update_s": step.update_s,
    }
    mean_s = timings.mean_compute_s
    return row | {
        "other_s": step_s - sum(row.values()),
        "step_s": step_s,
        "mean_compute_s": mean_s,
        "balance": timings.compute_s / mean_s if mean_s > 0 else 1.0,
        "busy": timings.busy,
    }
