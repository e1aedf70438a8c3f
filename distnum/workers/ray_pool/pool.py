"""The pool of Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from distnum.common.arrays import Array
from distnum.common.errors import LostError
from distnum.common.events import OnEvent, log_event
from distnum.common.machine import keep_freed_memory
from distnum.workers.planner import Planner
from distnum.workers.pool import BatchAt, Closing, Gathered, KeptSlices
from distnum.workers.ray_pool.actor import DistnumWorker, Setup
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.deadlines import Deadlines
from distnum.workers.ray_pool.gather import Gathering, Turn
from distnum.workers.ray_pool.roster import WorkerCounts, speeds_of
from distnum.workers.ray_pool.shared_memory import SharedFiles
from distnum.workers.ray_pool.team import RayTeam
from distnum.workers.work import SharesBlocks, Work

__all__ = ["RayPool", "WorkerCounts"]

# The work fails after losses of workers in this many steps in a row.
_MOST_STEPS_WITH_LOSSES = 10


class RayPool(Closing):
    """Computes on Ray actors.

    Args:
        work, batch_at: What to compute, and the batch of a step; sent once to each node.
        n_workers: Number of actors, or a function that returns the counts for a number of CPUs and
            nodes of the cluster; it is called again when nodes come and go.
        n_threads: Threads of each worker; an actor requests this number of CPUs.
        address: Address of a running Ray cluster; None starts one on this machine, which ends
            with the pool. A session that this process has started already is used as it is.
        dtype: Dtype of the parameters and answers.
        deadline_s: Seconds to wait for a reply; None derives them from earlier turns.
        wait_s: Seconds to wait when there are too few workers.
        warm_up: Parameters to compute some tiles with before a worker is used, so that it has
            loaded or compiled its code; None to compute none.
        n_asked: CPUs that a session started here must have.
        resources: Resources of each worker besides CPUs, by Ray's names.
        last_step: Last step that will be asked for: while workers compute a step, the pool plans
            the next one up to here. None plans no step in advance.
        meanwhile: Called while the Ray session starts, which takes seconds.
        on_event: Called with an event when a worker joins, is lost or fails to start.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs or resources.
        TrainingError: The workers do not start.
    """

    def __init__(
        self,
        work: Work,
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
        last_step: int | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        on_event: OnEvent = log_event,
    ) -> None:
        self._work = work
        self._batch_at = batch_at
        self._dtype = np.dtype(dtype)
        self._deadline_s = deadline_s
        self._last_step = last_step
        self._turn = self._n_steps_with_losses = 0
        self._variant: Any = None
        keep_freed_memory()
        self._team = team = RayTeam(
            n_workers, n_threads, address, n_asked=n_asked, resources=resources, meanwhile=meanwhile
        )
        try:
            self._ray = team.ray
            self.n_threads = team.counts.n_threads
            setup = Setup(work, batch_at, self.n_threads, self._dtype, warm_up, team.folder)
            self._files = SharedFiles(team.folder, self._dtype, work.n_params, setup.answers_shape)
            team.stack.callback(self._files.remove)
            self._shares_blocks = team.counts.most > 1 and team.own_session
            self._prepare(None)
            team.start(DistnumWorker, setup, wait_s, on_event)
            self._roster = team.roster
        except BaseException:
            self.close()
            raise

    @property
    def own_session(self) -> bool:
        """Whether this process started the Ray session, on this machine alone."""
        return self._team.own_session

    @property
    def workers(self) -> list[RayWorker]:
        """The workers that are used."""
        return self._team.workers

    @property
    def n_workers(self) -> int:
        """Current number of workers."""
        return len(self.workers)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self.workers]

    def node_cpus(self, used: bool = False) -> list[int]:
        """CPUs of each node, largest first; with ``used`` only of nodes with workers."""
        return self._team.cluster.node_cpus({worker.node for worker in self.workers} if used else None)

    def wait_for(self, n_workers: int) -> None:
        """Wait until there are this many workers again.

        Raises:
            TrainingError: They do not come within the waiting time.
        """
        self._roster.wait_for(n_workers)

    def use(self, n_workers: int, n_threads: int, variant: Any = None) -> None:
        """Use this number of the workers, and of threads each, from the next turn on.

        Times of earlier turns are forgotten, as other workers took them.

        Args:
            n_workers: Number of workers.
            n_threads: Threads of each worker.
            variant: Passed to ``batch_at`` after the step, if not None; in weak scaling the number of workers.
        """
        self._roster.use(n_workers)
        self.n_threads = n_threads
        self._prepare(variant)

    def _prepare(self, variant: Any) -> None:
        """Make the planner, deadlines and shared files for the next turns."""
        self._variant = variant
        batch_at = self._batch_at
        # Not a method of this pool: a cycle of references would keep handles of actors alive after close.
        batch_of: BatchAt = batch_at if variant is None else lambda step: batch_at(step, variant)
        self._planner = Planner(self._work, batch_of)
        # Work that is not safe for threads calls a function of the user's.
        self._deadlines = Deadlines(self._deadline_s, any_time=not self._work.thread_safe)
        self._blocks_shape: tuple[int, int] | None = None
        if self._shares_blocks and isinstance(self._work, SharesBlocks):
            self._blocks_shape = self._work.shared_blocks(batch_of(1), self._dtype)
        self._files.renew(self._blocks_shape)

    def compute(self, step: int, params: Array, kept: KeptSlices | None = None) -> Gathered:
        """Compute all answers at ``params`` and the batch of a step.

        Raises:
            TrainingError: Workers are lost again and again, or there are too few.
        """
        self._ray.check()
        roster, planner = self._roster, self._planner
        self._turn += 1
        roster.refresh(step, self._deadlines.deadline)
        while not roster.idle:
            roster.wait_for_one(step, self._deadlines.deadline)
        idle = roster.idle
        if len(idle) < len(roster.working):
            # A late worker may still write into the files of an earlier turn.
            self._files.renew(self._blocks_shape)
        shards = planner.shards(step, idle, speeds_of(idle))
        began = perf_counter()
        turn = Turn(self._turn, step, params, self.n_threads, self._variant)
        gathering = Gathering(self._ray, roster, self._deadlines, self._work, self._files, planner.costs, turn, kept)
        broadcast = perf_counter()
        for number, (worker, shard) in enumerate(zip(idle, shards, strict=True)):
            gathering.give(worker, shard, rank=number / len(idle))
        dispatched = perf_counter()
        costs = planner.costs
        if self._last_step is not None and step < self._last_step:
            # While the workers compute. The plan decides no bits, so it need not know this step's times.
            planner.plan(step + 1, roster.working, speeds_of(roster.working))
        gathered = gathering.collect()
        timings = replace(gathered.timings, broadcast_s=broadcast - began, dispatch_s=dispatched - broadcast)
        gathered = replace(gathered, timings=timings)
        self._deadlines.learn(gathered, costs)
        for worker, speed in planner.learn(gathered, costs).items():
            worker.speeds.append(speed)
        self._count_losses(gathering)
        return gathered

    def _count_losses(self, gathering: Gathering) -> None:
        self._n_steps_with_losses = self._n_steps_with_losses + 1 if gathering.n_lost else 0
        if self._n_steps_with_losses >= _MOST_STEPS_WITH_LOSSES:
            raise LostError(
                f"Workers were lost in each of the last {_MOST_STEPS_WITH_LOSSES} steps, the last one because: "
                f"{gathering.last_reason}"
            )

    def close(self) -> None:
        """End the workers, and the session if this pool is its last user."""
        self._team.close()
