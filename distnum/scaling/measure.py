"""Scaling experiments: the same steps on different numbers of workers and threads, measured in turns.

One pool has all the workers; each measurement uses some of them, from the same initial
parameters on, so that every setting does the same work with the same bits. The settings take
turns, repeat by repeat, so that a drift of the machine does not become a curve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from time import perf_counter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.checks import checked, choice, whole
from distnum.common.errors import InputError, TrainingError
from distnum.common.events import Event, log_event
from distnum.differentiation.black_box import LossFunction
from distnum.differentiation.parameters import Params
from distnum.scaling.measurement import MODES, ClusterNodes, Measurement, Setting
from distnum.storage.checkpoints import params_sha256
from distnum.training.config import Config
from distnum.training.job import Job
from distnum.training.loop import run_steps
from distnum.training.placement import open_pool
from distnum.training.prepare import network_job, prepare
from distnum.workers.pool import Closing, Gathered, KeptSlices, Pool
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.tiles import balance, make_shards

__all__ = ["MeasuredJob", "measure_scaling", "plan_settings", "prepare_measured_job"]
log = logging.getLogger("distnum")

# A measurement in which a worker was lost is made again, so often.
_MOST_LOSSES = 3

# In weak scaling the number by which workers know a step says for how many its batch is: so many times that.
_STEPS = 2**32


@dataclass(frozen=True)
class MeasuredJob:
    """The job whose steps are measured, and how its tiles can be shared.

    Attributes:
        job: with the fewest workers' batch, in weak scaling.
        mode: of ``MODES``.
        costs: of the tiles beside each other, shape ``(n_tiles,)``.
    """

    job: Job
    mode: str
    costs: NDArray[np.float64]

    def planned_balance(self, n_workers: int) -> float:
        """The share of the busiest of so many workers over the mean."""
        return balance(self.costs, make_shards(self.costs, n_workers, self.job.objective.groups))

    @property
    def n_tiles(self) -> int:
        return len(self.costs)


class _BatchesByWorkers:
    """Batches for weak scaling: the number says for how many workers, and which step; without that for the fewest."""

    def __init__(self, sources: Mapping[int, Callable[[int], Any]]) -> None:
        self._sources = sources

    def __call__(self, number: int) -> Any:
        n_workers, step = divmod(number, _STEPS)
        return self._sources[n_workers or min(self._sources)](step)


def plan_settings(workers: Sequence[int], threads: Sequence[int]) -> list[Setting]:
    """All combinations.

    Raises:
        InputError: there are none, or some twice, or one cannot be.
    """
    for name, numbers in (("workers", workers), ("threads", threads)):
        if len(numbers) == 0:
            raise InputError(f"{name} is empty; it must be numbers of at least 1, as in 1,2,4.")
        for number in numbers:
            if number == 0:
                raise InputError(f"{name} holds 0; a scaling experiment needs at least 1 of them.")
            checked(name, number, whole(1, 100_000))
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{name} is {','.join(map(str, numbers))}; every number must stand there once.")
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
    """The job that the arguments of ``scale`` describe, with room for all the settings.

    Raises:
        InputError: something given cannot be used, or a setting cannot be measured.
    """
    checked("mode", mode, choice(*MODES))
    most = max(setting.workers for setting in settings)
    fixed = {
        "workers": most,
        "threads_per_worker": 1,
        "steps": 2**62,
        "on_nonfinite": "stop",
    }
    job = prepare(loss, params, data, config, {**options, **fixed})
    objective = job.objective
    if not objective.thread_safe and any(setting.threads > 1 for setting in settings):
        raise InputError(
            "threads is more than 1, but whole loss functions are evaluated by one thread a worker; leave it out."
        )
    costs = objective.expected_costs(job.batch_at(1))
    if most > len(costs):
        raise InputError(
            f"workers holds {most:,}, but the {objective.n_params:,} parameters are cut into {len(costs):,} tiles; "
            "it must not be more, as some would have nothing to do."
        )
    if mode == "weak":
        job = _with_growing_batches(job, settings)
    return MeasuredJob(job, mode, costs)


def _with_growing_batches(job: Job, settings: Sequence[Setting]) -> Job:
    """The same job with a batch for each number of workers: so many times the batch size."""
    if job.network is None or job.dataset is None:
        raise InputError(
            "mode is 'weak', which grows the batch with the workers; a loss function decides itself what it does with "
            "a batch, so it must be 'strong'."
        )
    sources = {}
    for n_workers in sorted({setting.workers for setting in settings}):
        grown = replace(job.config, batch_size=job.config.batch_size * n_workers)
        try:
            sources[n_workers] = network_job(grown, job.dataset, job.network.activation).batch_at
        except InputError as error:
            raise InputError(f"mode is 'weak' and workers holds {n_workers}: {error}") from None
    return replace(job, batch_at=_BatchesByWorkers(sources))


def measure_scaling(
    work: MeasuredJob,
    missing: Sequence[tuple[int, Setting]],
    n_steps: int,
    warmup: int,
    on_start: Callable[[ClusterNodes], None] = lambda place: None,
) -> Iterator[Measurement]:
    """Measure settings in the order given, each with the number of its repeat.

    Args:
        work: what is computed.
        missing: repeats and settings.
        n_steps: of each measurement, after ``warmup`` others.
        on_start: is told where the workers are.

    Raises:
        InputError: the workers cannot be had.
        TrainingError: workers are lost again and again.
    """
    lost: list[Event] = []

    def on_event(event: Event) -> None:
        if event.kind == "worker_lost":
            lost.append(event)
        log_event(event)

    with open_pool(work.job, on_event=on_event) as pool:
        assert isinstance(pool, RayPool)
        on_start(_place_of(pool))
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
    offset = setting.workers * _STEPS if work.mode == "weak" else 0
    pool.use(setting.workers, setting.threads, offset)
    recorder = _Recorder(pool)
    job = replace(work.job, batch_at=lambda step: work.job.batch_at(offset + step))
    rows: list[dict[str, float]] = []
    state = job.initial
    started = perf_counter()
    for number, step in enumerate(islice(run_steps(job, recorder, state), warmup + n_steps)):
        step_s = perf_counter() - started
        if number >= warmup:
            found = recorder.found
            row = {
                "broadcast_s": found.broadcast_s,
                "dispatch_s": found.dispatch_s,
                "compute_s": step.compute_s,
                "gather_s": step.dispatch_gather_s - found.broadcast_s - found.dispatch_s,
                "update_s": step.update_s,
            }
            row["other_s"] = step_s - sum(row.values())
            row |= {"step_s": step_s, "mean_compute_s": found.mean_compute_s}
            row["balance"] = found.compute_s / found.mean_compute_s if found.mean_compute_s > 0 else 1.0
            computed_s = sum(one.compute_s for _, one in found.answers)
            row["busy"] = sum(one.cpu_s for _, one in found.answers) / max(computed_s * setting.threads, 1e-300)
            rows.append(row)
        state = step.state
        started = perf_counter()
    medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    return Measurement(
        mode=work.mode,
        workers=setting.workers,
        threads=setting.threads,
        nodes=pool.n_nodes,
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


def _place_of(pool: RayPool) -> ClusterNodes:
    return ClusterNodes(_asked_over(pool), tuple(pool.node_cpus()), pool.n_nodes)


def _asked_over(pool: RayPool) -> str:
    return "sockets" if pool.own_session else "Ray"


class _Recorder(Closing):
    """A pool that remembers what its last gradient was."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.found = cast("Gathered", None)

    @property
    def n_workers(self) -> int:
        return self._pool.n_workers

    @property
    def n_threads(self) -> int:
        return self._pool.n_threads

    def plan(self, costs: NDArray[np.float64]) -> None:
        self._pool.plan(costs)

    def gradient(
        self,
        step: int,
        params: Array,
        meanwhile: Callable[[], None] = lambda: None,
        kept: KeptSlices | None = None,
    ) -> Gathered:
        self.found = self._pool.gradient(step, params, meanwhile, kept)
        return self.found

    def close(self) -> None:
        pass
