"""Scaling experiments: the same steps on different numbers of workers and threads, measured in turns.

One pool has all the workers; each measurement uses some of them, from the same initial
parameters on, so that every setting does the same work with the same bits. The settings take
turns, repeat by repeat, so that a drift of the machine does not become a curve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from distnum.checkpoints import params_sha256
from distnum.config import Config
from distnum.errors import InputError, TrainingError
from distnum.events import Event, log_event
from distnum.jobs import Job, network_job, prepare
from distnum.kinds import checked, choice, whole
from distnum.loop import run_steps
from distnum.objectives import LossFunction, Params
from distnum.placement import open_pool
from distnum.plan import balance, make_shards
from distnum.pools import Closing, Gathered, KeptSlices, Pool
from distnum.ray_pool import RayPool

__all__ = [
    "MODES",
    "PARTS",
    "Measurement",
    "Place",
    "Setting",
    "Work",
    "measure_scaling",
    "plan_settings",
    "prepare_work",
]

Array = NDArray[np.floating]

log = logging.getLogger("distnum")

MODES = ("strong", "weak")
ASKED_OVER = ("sockets", "Ray")
PARTS = ("broadcast_s", "dispatch_s", "compute_s", "gather_s", "update_s", "other_s")
"""What the time of a step is made of; see ``Measurement``."""

# Cores that are busy for so much of the time are the limit.
_SATURATED = 0.75
# A measurement in which a worker was lost is made again, so often.
_MOST_LOSSES = 3
# In weak scaling the number by which workers know a step says for how many its batch is: so many times that.
_STEPS = 2**32


class Setting(NamedTuple):
    """What is varied."""

    workers: int
    threads: int

    @property
    def cores(self) -> int:
        return self.workers * self.threads

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} threads" if self.threads > 1 else str(self.workers)


class Place(NamedTuple):
    """Where workers are.

    Attributes:
        asked_over: of ``ASKED_OVER``.
        node_cpus: of every node that there is, the most first.
        n_nodes: with workers.
    """

    asked_over: str
    node_cpus: tuple[int, ...]
    n_nodes: int


@dataclass(frozen=True)
class Measurement:
    """One measurement of one setting: medians over its steps.

    Attributes:
        mode: ``"strong"``, the same work for all, or ``"weak"``, a batch that grows with the workers.
        workers, threads, nodes: that took part.
        repeat: its number, from 1.
        steps, warmup: that were measured, and others before them.
        step_s: seconds of a step, from one update to the next.
        broadcast_s: of that, the driver lays out the parameters.
        dispatch_s: it asks each worker for its shard.
        compute_s: the slowest worker computes.
        gather_s: answers come in, and what the driver waits, or plans the next step, beside computing; below 0
            where workers compute while others are still being asked.
        update_s: the gradient is checked and applied.
        other_s: all the rest.
        mean_compute_s: what a worker computes on average.
        balance: the slowest worker over the average.
        planned_balance: the same as it was planned, from the costs of the tiles.
        busy: the share of a worker's computing in which its cores were busy; in the rest it waited.
        cores: that there were for them, on these nodes.
        asked_over: ``"sockets"`` of this machine, or ``"Ray"``, by calls of it, which take longer.
        params_sha256: of the parameters after the last step.
    """

    mode: str
    workers: int
    threads: int
    nodes: int
    repeat: int
    steps: int
    warmup: int
    step_s: float
    broadcast_s: float
    dispatch_s: float
    compute_s: float
    gather_s: float
    update_s: float
    other_s: float
    mean_compute_s: float
    balance: float
    planned_balance: float
    busy: float
    cores: int
    asked_over: str
    params_sha256: str
    measured_at: str

    @property
    def oversubscribed(self) -> bool:
        """Whether there were more threads than cores, and these were busy: the threads waited for each other."""
        asked = self.workers * self.threads
        return asked > self.cores and asked * self.busy > _SATURATED * self.cores

    @property
    def setting(self) -> Setting:
        return Setting(self.workers, self.threads)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """What ``to_dict`` gave.

        Raises:
            ValueError: it is something else.
        """
        kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
        found: dict[str, Any] = {}
        for item in fields(cls):
            value = values.get(item.name)
            if not isinstance(value, kinds[str(item.type)]) or (isinstance(value, bool) and item.type != "bool"):
                raise ValueError(f"{item.name} is {value!r:.40}")
            found[item.name] = value
        for name in ("workers", "threads", "nodes", "repeat", "steps", "cores", "step_s"):
            if not 0 < found[name] < float("inf"):
                raise ValueError(f"{name} is {found[name]!r:.40}")
        differences = ("gather_s", "other_s")
        for name in (*PARTS, "warmup", "mean_compute_s", "balance", "planned_balance", "busy"):
            if not (-float("inf") if name in differences else 0) <= found[name] < float("inf"):
                raise ValueError(f"{name} is {found[name]!r:.40}")
        for name, allowed in (("mode", MODES), ("asked_over", ASKED_OVER)):
            if found[name] not in allowed:
                raise ValueError(f"{name} is {found[name]!r:.40}")
        return cls(**found)


@dataclass(frozen=True)
class Work:
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


def prepare_work(
    loss: str | LossFunction | None,
    params: Params | None,
    data: Any,
    config: Config | None,
    options: Mapping[str, Any],
    settings: Sequence[Setting],
    mode: str,
) -> Work:
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
    return Work(job, mode, costs)


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
    work: Work,
    missing: Sequence[tuple[int, Setting]],
    n_steps: int,
    warmup: int,
    on_start: Callable[[Place], None] = lambda place: None,
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

    def tell(event: Event) -> None:
        if event.kind == "worker_lost":
            lost.append(event)
        log_event(event)

    with open_pool(work.job, tell=tell) as pool:
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


def _measured(work: Work, pool: RayPool, setting: Setting, repeat: int, n_steps: int, warmup: int) -> Measurement:
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


def _place_of(pool: RayPool) -> Place:
    return Place(_asked_over(pool), tuple(pool.node_cpus()), pool.n_nodes)


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
