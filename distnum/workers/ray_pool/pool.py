"""The pool of Ray actors: a gradient is shared among them, and gathered through any loss of theirs."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError, TrainingError
from distnum.common.events import OnEvent, log_event
from distnum.common.machine import keep_freed_memory, n_cores
from distnum.workers.pool import BatchAt, Closing, Gathered, KeptSlices
from distnum.workers.ray_pool.actor import Setup
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.deadlines import Timing
from distnum.workers.ray_pool.gather import Gathering
from distnum.workers.ray_pool.roster import Roster
from distnum.workers.ray_pool.session import ray_session
from distnum.workers.ray_pool.shared_memory import SharedBlocks, SharedVectors
from distnum.workers.tiles import Shard, all_tiles, make_shards
from distnum.workers.work import Objective

__all__ = ["RayPool", "WorkerCounts"]

# So many steps in a row may have losses.
_MOST_STEPS_WITH_LOSSES = 10

# A plan is kept while its busiest worker has no more than so much over what was planned, in parts of the mean.
_WORSE = 0.01


@dataclass(frozen=True)
class WorkerCounts:
    """How many workers a pool has.

    Attributes:
        least: fewer, for longer than is waited for them, end the work.
        most: that are used.
        at_start: that must be there before the first step.
        n_threads: of each.
    """

    least: int
    most: int
    at_start: int
    n_threads: int = 1


class RayPool(Closing):
    """Computes each shard in a Ray actor of its own.

    Args:
        objective, batch_at: sent once to each node, not with every step.
        n_workers: actors, or a function that gives the counts from the cluster's CPUs and nodes,
            which is asked again when nodes come and go.
        n_threads: of each; an actor asks Ray for as many CPUs.
        address: of a Ray cluster that runs already; None starts one on this machine, which
            ends with the pool. A session that this process has already begun is used as it is.
        dtype: of the parameters.
        deadline_s: of an answer; None takes it from what answers have taken.
        wait_s: seconds to wait where there are too few workers.
        warm_up: parameters to try some slices with before a worker is used, so that it has
            loaded or compiled what it needs; None for no trial.
        n_asked: CPUs that a session started here must have.
        resources: that each worker asks Ray for, beside CPUs.
        on_event: called with each event: workers that come and go.

    Raises:
        InputError: the cluster cannot be reached or has too few CPUs.
        TrainingError: the workers do not start.
    """

    def __init__(
        self,
        objective: Objective,
        batch_at: BatchAt,
        n_workers: int | Callable[[int, int], WorkerCounts],
        n_threads: int = 1,
        address: str | None = None,
        dtype: DTypeLike = np.float64,
        *,
        deadline_s: float | None = None,
        wait_s: float = 60.0,
        warm_up: Array | None = None,
        n_asked: int | None = None,
        resources: Mapping[str, float] | None = None,
        on_event: OnEvent = log_event,
    ) -> None:
        self._objective = objective
        self._batch_at = batch_at
        self._dtype = np.dtype(dtype)
        self._turn = 0
        self._costs: NDArray[np.float64] | None = None
        self._planned: tuple[list[RayWorker], list[Shard]] = ([], [])
        self._as_planned = 1.0
        self._deadline_s = deadline_s
        self._timing = Timing(deadline_s)
        self._n_steps_with_losses = 0
        self._workers: Roster | None = None
        self._shared: SharedVectors | None = None
        self._board: SharedBlocks | None = None
        self._board_shape: tuple[int, int] | None = None
        self._several = False
        self._session = contextlib.ExitStack()
        keep_freed_memory()
        try:
            asked = n_asked if n_asked is not None else 1 if callable(n_workers) else n_workers
            ray, self._folder = self._session.enter_context(ray_session(address, asked * n_threads, asked))
            self._ray = ray
            counts_of = n_workers if callable(n_workers) else _fixed(n_workers, n_threads)
            counts = self._counts(counts_of)
            self.n_threads = counts.n_threads
            if counts.at_start * counts.n_threads > self.n_cpus:
                raise InputError(
                    f"workers is {counts.at_start} and threads_per_worker is {counts.n_threads}, but the Ray cluster "
                    f"has {self.n_cpus} CPUs; their product must not be more."
                )
            for name, amount in (resources or {}).items():
                if self._ray.cluster_resources().get(name, 0) < amount:
                    there = ", ".join(sorted(n for n in self._ray.cluster_resources() if ":" not in n))
                    raise InputError(
                        f"resources asks for {name}={amount:g} a worker, but the Ray cluster has "
                        f"{self._ray.cluster_resources().get(name, 0):g} of it; it has {there}."
                    )
            setup = self._put(Setup(objective, batch_at, self.n_threads, self._dtype, warm_up, self._folder))
            self._several = counts.most > 1
            self._board_shape = self._shape_of_board(1)
            self._make_files()
            self._workers = Roster(
                ray,
                setup,
                self.n_threads,
                counts.at_start,
                counts.least,
                lambda: self._counts(counts_of).most,
                wait_s,
                self._folder is not None,
                on_event,
                resources,
            )
            self._workers.start()
        except BaseException:
            self.close()
            raise

    def _make_files(self) -> None:
        """New files for what is shared on this machine, in place of those that there are."""
        self._remove_files()
        self._shared = SharedVectors.create(self._folder, self._dtype, self._objective.n_params)
        self._board = None
        if self._board_shape is not None:
            self._board = SharedBlocks.create(self._folder, *self._board_shape)

    def _remove_files(self) -> None:
        for file in (self._shared, self._board):
            if file is not None:
                file.remove()

    def _counts(self, counts_of: Callable[[int, int], WorkerCounts]) -> WorkerCounts:
        return counts_of(self.n_cpus, sum(1 for node in self._ray.nodes() if node["Alive"]))

    @property
    def n_cpus(self) -> int:
        """CPUs of the cluster, as Ray counts them."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _put(self, setup: Setup) -> Any:
        try:
            return self._ray.put(setup)
        except (TypeError, ValueError, pickle.PicklingError) as error:
            raise InputError(
                f"the function or its data cannot be sent to workers, as it holds what no other process can "
                f"have: {str(error.__cause__ or error).strip().splitlines()[0]}. Leave that out, or compute here: "
                "workers=0."
            ) from None

    @property
    def n_workers(self) -> int:
        """How many there are now."""
        return len(self._workers.working) if self._workers is not None else 0

    @property
    def n_nodes(self) -> int:
        """On how many nodes they are."""
        return len({worker.node for worker in self._workers.working}) if self._workers is not None else 0

    def node_cpus(self, used: bool = False) -> list[int]:
        """CPUs of each node, or of those that its workers are on, as Ray counts them; the most first.

        Of this machine, where it is a node, no more than it has.
        """
        assert self._workers is not None
        places = {worker.node for worker in self._workers.working}
        found = []
        for node in self._ray.nodes():
            if node["Alive"] and (node["NodeID"] in places or not used):
                cpus = int(node["Resources"].get("CPU", 0))
                found.append(min(cpus, n_cores()) if node["NodeID"] == self._workers.here else cpus)
        return sorted(found, reverse=True)

    @property
    def own_session(self) -> bool:
        """Whether its Ray session was started here, on this machine alone."""
        return self._folder is not None

    def wait_for(self, n_workers: int) -> None:
        """Wait until there are so many workers again.

        Raises:
            TrainingError: they do not come.
        """
        assert self._workers is not None
        self._workers.wait_for(n_workers)

    def use(self, n_workers: int, n_threads: int, offset: int = 0) -> None:
        """Compute with so many of the workers, and so many threads each, from the next ``plan`` on.

        What was known of how long work takes is forgotten: it was of other workers.

        Args:
            offset: added to the number of a step where its batch is drawn.
        """
        assert self._workers is not None
        self._workers.use(n_workers, n_threads, offset)
        self.n_threads = n_threads
        self._timing = Timing(self._deadline_s)
        shape = self._shape_of_board(offset + 1)
        # Who is late may be one that rests from now on, and write at any time.
        if self._board_shape != shape or self._workers.is_any_late:
            self._board_shape = shape
            self._make_files()

    def _shape_of_board(self, number: int) -> tuple[int, int] | None:
        """For what workers of this machine find together of a batch like this one; None if that is nothing."""
        shareable = self._objective.shareable
        if shareable is None or not self.own_session or not self._several:
            return None
        return shareable(self._batch_at(number), self._dtype)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers.working] if self._workers is not None else []

    def plan(self, costs: NDArray[np.float64]) -> None:
        assert self._workers is not None
        self._costs = costs = costs / max(float(costs.sum()), 1e-300)
        workers = list(self._workers.working)
        if not workers:
            self._planned = [], []
            return
        planned_for, shards = self._planned
        speeds = self._workers.speeds(workers)
        if planned_for == workers and self._busiest(costs, shards, speeds) < self._as_planned + _WORSE:
            return  # who has what stays: to plan takes time from the workers, where they have all cores
        self._planned = workers, self._shards(costs, workers)
        self._as_planned = self._busiest(costs, self._planned[1], speeds)

    @staticmethod
    def _busiest(costs: NDArray[np.float64], shards: list[Shard], speeds: NDArray[np.float64]) -> float:
        """How long the busiest worker takes beside the mean."""
        times = np.array([costs[shard].sum() for shard in shards]) / speeds
        return float(times.max() / max(times.mean(), 1e-300))

    def _shards(self, costs: NDArray[np.float64], workers: list[RayWorker]) -> list[Shard]:
        if len(workers) == 1:
            return [all_tiles(self._objective.tiles)]
        assert self._workers is not None
        return make_shards(costs, len(workers), self._objective.groups, self._workers.speeds(workers))

    def gradient(
        self,
        step: int,
        params: Array,
        meanwhile: Callable[[], None] = lambda: None,
        kept: KeptSlices | None = None,
    ) -> Gathered:
        """The gradient at a step's batch; ``plan`` comes before.

        Raises:
            TrainingError: workers are lost again and again, or there are none.
        """
        assert self._workers is not None
        workers, costs = self._workers, self._costs
        assert costs is not None
        self._turn += 1
        workers.refresh(step, self._timing.deadline)
        while not workers.idle:
            workers.wait_for_one(step, self._timing.deadline)
        idle = workers.idle
        if len(idle) < len(workers.working):
            # Somebody is at an earlier turn still, and may write into its files at any time.
            self._make_files()
        planned_for, shards = self._planned
        if planned_for != idle:
            shards = self._shards(costs, idle)
        began = perf_counter()
        gathering = Gathering(
            self._ray,
            workers,
            self._timing,
            self._objective,
            self._shared,
            costs,
            self._turn,
            step,
            params,
            kept,
            self._board if len(idle) > 1 else None,
        )
        laid_out = perf_counter()
        for number, (worker, shard) in enumerate(zip(idle, shards, strict=True)):
            gathering.give(worker, shard, rank=number / len(idle))
        asked = perf_counter()
        meanwhile()
        found = gathering.collect()
        self._learn(gathering)
        return replace(found, broadcast_s=laid_out - began, dispatch_s=asked - laid_out)

    def _learn(self, gathering: Gathering) -> None:
        """Take in how long answers took, and how fast each worker was beside the others."""
        costs, done = gathering.costs, gathering.answers
        of_worker: dict[RayWorker, tuple[float, float]] = {}
        slowest = 0.0
        for worker, shard, one in done:
            share = float(costs[shard].sum())
            if share > 0:
                work_s = float(one.group_s.sum()) if one.group_s is not None else one.compute_s
                shares, seconds = of_worker.get(worker, (0.0, 0.0))
                of_worker[worker] = shares + share, seconds + work_s
                slowest = max(slowest, one.compute_s * worker.speed / share)
        self._timing.note(slowest)
        total_share = sum(share for share, _ in of_worker.values())
        total_s = sum(seconds for _, seconds in of_worker.values())
        for worker, (share, seconds) in of_worker.items():
            if len(of_worker) > 1 and seconds > 0 and total_share > 0:
                worker.speeds.append((share / seconds) / (total_share / total_s))
        self._n_steps_with_losses = self._n_steps_with_losses + 1 if gathering.n_lost else 0
        if self._n_steps_with_losses >= _MOST_STEPS_WITH_LOSSES:
            raise TrainingError(
                f"Workers were lost in each of the last {_MOST_STEPS_WITH_LOSSES} steps, the last one because: "
                f"{gathering.last_reason} A worker that keeps dying is usually out of memory; try fewer workers."
            )

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()
        self._remove_files()
        self._session.close()


def _fixed(n_workers: int, n_threads: int) -> Callable[[int, int], WorkerCounts]:
    """Always so many, and one is enough to go on with."""
    return lambda n_cpus, n_nodes: WorkerCounts(1, n_workers, n_workers, n_threads)
