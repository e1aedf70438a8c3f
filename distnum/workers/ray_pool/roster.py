"""The workers of a Ray pool: working, resting and starting ones; lost workers are replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import TrainingError
from distnum.common.events import Event, OnEvent
from distnum.workers.ray_pool.actor import reason_of
from distnum.workers.ray_pool.channel import Call, Channel, RayWorker
from distnum.workers.ray_pool.starting import LOOK_S, StartingActors, end_actor

__all__ = ["Roster", "WorkerCounts"]

# Seconds between attempts to start missing workers; the cluster may have room by now.
_ROOM_S = 2.0
# Speeds within this factor are taken as equal.
_EQUAL_SPEEDS = 1.15


@dataclass(frozen=True)
class WorkerCounts:
    """How many workers a pool has.

    Attributes:
        least: With fewer workers for longer than the waiting time, the work fails.
        most: Largest number of workers that are used.
        at_start: Number of workers to wait for before the first turn.
        n_threads: Threads of each worker.
    """

    least: int
    most: int
    at_start: int
    n_threads: int = 1


class Roster:
    """Keeps as many workers as are wanted and the cluster has room for.

    Args:
        ray: The connected ``ray`` module.
        setup: Ray's reference of the ``Setup``.
        counts: Returns the wanted numbers of workers for the cluster as it is now.
        wait_s: Seconds to wait when there are too few workers.
        own: Whether this process started the session.
        on_event: Called with an event when a worker joins, is lost or fails to start.
        resources: Resources of each worker besides CPUs, by Ray's names.
    """

    def __init__(
        self,
        ray: Any,
        setup: Any,
        counts: Callable[[], WorkerCounts],
        wait_s: float,
        own: bool,
        on_event: OnEvent,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._ray = ray
        self._counts = counts
        self._first_counts = counts()
        self._wait_s = wait_s
        self._own = own
        self._on_event = on_event
        self.channel = Channel(ray)
        self.here = ray.get_runtime_context().get_node_id()
        self._starting = StartingActors(ray, setup, self._first_counts.n_threads, resources, spread=not own)
        self.working: list[RayWorker] = []
        self._resting: list[RayWorker] = []
        self._looked = self._requested = 0.0
        self._short_since: float | None = None
        self._last_reason = ""

    @property
    def idle(self) -> list[RayWorker]:
        """Workers without a task."""
        return [worker for worker in self.working if worker.call is None]

    def speeds(self, workers: list[RayWorker]) -> NDArray[np.float64]:
        """Relative speeds of some workers; all 1 if they differ little."""
        speeds = np.array([worker.speed for worker in workers])
        return speeds if len(speeds) and speeds.max() > _EQUAL_SPEEDS * speeds.min() else np.ones(len(workers))

    def use(self, n_workers: int) -> None:
        """Use this number of the workers, spread over as many nodes as possible; the others rest."""
        n_on: Counter[str] = Counter()
        ranked: list[tuple[int, str, int, RayWorker]] = []
        for worker in sorted([*self.working, *self._resting], key=lambda worker: worker.number):
            # The node's name makes the choice the same in every session of a cluster.
            ranked.append((n_on[worker.node], worker.node, worker.number, worker))
            n_on[worker.node] += 1
            worker.speeds.clear()
        workers = [worker for *_, worker in sorted(ranked, key=lambda one: one[:3])]
        self.working, self._resting = workers[:n_workers], workers[n_workers:]

    def start(self) -> None:
        """Start the workers that are wanted, and wait for those that are needed at the start.

        Raises:
            TrainingError: They do not start.
        """
        self._request()
        for worker in self._starting.first(self._first_counts.at_start, self._own):
            self._join(worker, 0)

    def _request(self, at_least: int = 0) -> None:
        """Request the workers that are missing."""
        n_there = len(self.working) + len(self._resting) + len(self._starting.workers)
        self._starting.request(max(at_least, self._counts().most) - n_there)

    def _join(self, worker: RayWorker, step: int) -> None:
        self.working.append(worker)
        text = f"worker {worker.number} joined on {worker.host}; there are {len(self.working)} now."
        self._on_event(Event("worker_joined", text, step, _about(worker, len(self.working))))

    def refresh(self, step: int, deadline_of: Callable[[Call], float], wait_s: float = 0) -> None:
        """Add workers that have started, discard late replies, give up silent workers, request missing ones."""
        ray, now = self._ray, perf_counter()
        late = [worker for worker in self.working if worker.call is not None]
        replied = self.channel.replied(late, wait_s) if late else []
        for worker in late:
            call = worker.call
            assert call is not None
            if worker in replied:
                try:
                    self.channel.receive(worker, LOOK_S)  # a reply of an earlier turn: nobody needs it
                except ray.exceptions.RayTaskError:
                    pass  # an exception in tiles that other workers have computed
                except (ray.exceptions.RayError, ConnectionError) as error:
                    self.give_up(worker, step, reason_of(error))
                    continue
                worker.call = None
            elif now - call.sent > deadline_of(call):
                self.give_up(worker, step, f"it has not answered for {now - call.sent:.1f} s")
        if now > self._requested + _ROOM_S:
            self._requested = now
            self._request()
        if self._starting.workers and (now > self._looked + LOOK_S or not self.working):
            self._looked = now
            self._look_at_starting(step, 0)
            self._starting.expire()
        self._check_enough(step)

    def _look_at_starting(self, step: int, timeout_s: float) -> None:
        def failed(worker: RayWorker, reason: str) -> None:
            self._last_reason = reason
            text = f"worker {worker.number} did not start: {reason}"
            self._on_event(Event("worker_not_started", text, step, {"worker": worker.number}))

        for worker in self._starting.next(timeout_s, failed):
            self._join(worker, step)

    def wait_for_one(self, step: int, deadline_of: Callable[[Call], float]) -> None:
        """Wait a moment for an idle worker when there is none.

        Raises:
            TrainingError: There have been too few workers for too long.
        """
        if self.working:
            self.refresh(step, deadline_of, LOOK_S)
            return
        if self._starting.workers:
            self._look_at_starting(step, LOOK_S)
            self._starting.expire()
        else:
            self._request(at_least=1)
        self._check_enough(step)

    def wait_for(self, n_workers: int) -> None:
        """Wait until there are this many workers, including resting ones.

        Raises:
            TrainingError: They do not come within the waiting time.
        """
        ends = perf_counter() + self._wait_s
        while (n_there := len(self.working) + len(self._resting)) < n_workers:
            self._request()
            if not self._starting.workers or perf_counter() > ends:
                last = f" The last one lost: {self._last_reason}" if self._last_reason else ""
                raise TrainingError(
                    f"There are {n_there} of {n_workers} workers, and no more have come within "
                    f"{self._wait_s:g} s.{last}"
                )
            self._look_at_starting(0, LOOK_S)

    def _check_enough(self, step: int) -> None:
        least = self._first_counts.least
        if len(self.working) >= least:
            self._short_since = None
            return
        now = perf_counter()
        if self._short_since is None:
            self._short_since = now
            if least > 1:
                text = (
                    f"there are {len(self.working)} workers, fewer than the {least} that are needed; "
                    f"waiting for more for {self._wait_s:g} s."
                )
                self._on_event(Event("workers_short", text, step, {"workers": len(self.working)}))
        hopeless = not self.working and not self._starting.workers and self._starting.hopeless
        if hopeless or now > self._short_since + self._wait_s:
            last = f" The last one lost: {self._last_reason}" if self._last_reason else ""
            raise TrainingError(
                f"There have been {len(self.working)} workers, fewer than {least}, for "
                f"{now - self._short_since:.0f} s in step {step}.{last}"
            )

    def lose(self, worker: RayWorker, step: int, reason: str) -> None:
        """Remove a worker that died, and request another."""
        self.working.remove(worker)
        self.channel.forget(worker)
        worker.call = None
        self._last_reason = reason
        text = f"worker {worker.number} on {worker.host} is lost: {reason.rstrip('.')}; its work goes to the others."
        self._on_event(Event("worker_lost", text, step, _about(worker, len(self.working)) | {"reason": reason}))
        self._request()

    def give_up(self, worker: RayWorker, step: int, reason: str) -> None:
        """End a worker that does not reply, and request another."""
        end_actor(self._ray, worker, self.here)
        self.lose(worker, step, reason)

    def close(self) -> None:
        """End all workers."""
        for worker in [*self.working, *self._resting, *self._starting.workers]:
            self.channel.forget(worker)
            end_actor(self._ray, worker, self.here if worker.call is not None else "")
        self.working, self._resting, self._starting.workers = [], [], []


def _about(worker: RayWorker, n_workers: int) -> dict[str, Any]:
    """Details of an event with a worker."""
    return {
        "worker": worker.number,
        "node": worker.node,
        "host": worker.host,
        "pid": worker.pid,
        "workers": n_workers,
    }
