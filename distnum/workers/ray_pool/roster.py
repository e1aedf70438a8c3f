"""The workers of a Ray pool: working, resting and starting ones; lost workers are replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import LostError, TrainingError
from distnum.common.events import Event, OnEvent
from distnum.workers.ray_pool.address import has_token
from distnum.workers.ray_pool.channel import Call, Channel, RayWorker
from distnum.workers.ray_pool.reasons import cause_of, reason_of
from distnum.workers.ray_pool.starting import LOOK_S, START_TIMEOUT_S, StartingActors, end_actor, fatal_error

__all__ = ["Roster", "WorkerCounts", "speeds_of"]

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


_TOKEN = " A token was sent to the cluster; if it asks for none, set RAY_AUTH_MODE=disabled."


class Roster:
    """Keeps as many workers as are wanted and the cluster has room for.

    Args:
        ray: The connected ``ray`` module.
        starting: Requests the actors.
        counts: Returns the wanted numbers of workers for the cluster as it is now.
        wait_s: Seconds to wait when there are too few workers.
        on_event: Called with an event when a worker joins, is lost or fails to start.
    """

    def __init__(
        self,
        ray: Any,
        starting: StartingActors,
        counts: Callable[[], WorkerCounts],
        wait_s: float,
        on_event: OnEvent,
    ) -> None:
        self._ray = ray
        self._counts = counts
        self._first_counts = counts()
        self._wait_s = wait_s
        self._on_event = on_event
        self.channel = Channel(ray)
        self.here = ray.get_runtime_context().get_node_id()
        self._starting = starting
        self.working: list[RayWorker] = []
        self._resting: list[RayWorker] = []
        self._looked = self._requested = 0.0
        self._short_since: float | None = None
        self._last_reason = ""

    @property
    def idle(self) -> list[RayWorker]:
        """Workers without a task."""
        return [worker for worker in self.working if worker.call is None]

    def use(self, n_workers: int) -> None:
        """Use this number of the workers, spread over as many nodes as possible; the others rest."""
        workers = _spread([*self.working, *self._resting])
        for worker in workers:
            worker.speeds.clear()
        self.working, self._resting = workers[:n_workers], workers[n_workers:]

    def start(self) -> None:
        """Start the workers that are wanted, and wait for those that are needed at the start.

        Raises:
            TrainingError: They do not start.
        """
        began, n_needed = perf_counter(), self._first_counts.at_start
        self._request()
        while len(self.working) < n_needed:
            self._look_at_starting(0, LOOK_S, at_start=True)
            now = perf_counter()
            short_since, reason = self._short_since, self._last_reason.rstrip(".")
            if short_since is not None and (self._starting.hopeless or now > short_since + self._wait_s):
                remedy = _TOKEN if self._starting.spread and not self.working and has_token() else ""
                raise LostError(f"Workers died while they started, the last one because: {reason}.{remedy}")
            if now > began + START_TIMEOUT_S:
                raise TrainingError(
                    f"{n_needed - len(self.working)} of {n_needed} workers did not start within {START_TIMEOUT_S:g} s; "
                    "is the Ray cluster busy with other work?"
                )
            self._request()
        if self._starting.workers:  # workers that start a moment later take part from the first turn on
            self._look_at_starting(0, LOOK_S, n_awaited=len(self._starting.workers))
        self._short_since = None

    def _request(self, at_least: int = 0) -> None:
        """Request the workers that are missing."""
        n_there = len(self.working) + len(self._resting) + len(self._starting.workers)
        self._starting.request(max(at_least, self._counts().most) - n_there)

    def _join(self, worker: RayWorker, step: int) -> None:
        self.working.append(worker)
        text = f"joined on {worker.host}; there are {len(self.working)} now."
        self._report("worker_joined", worker, text, step)

    def refresh(self, step: int, deadline_of: Callable[[Call], float], wait_s: float = 0, turn: int = -1) -> None:
        """Add new workers, discard replies to tasks of other turns, give up silent workers, request missing ones."""
        ray, now = self._ray, perf_counter()
        late = [worker for worker in self.working if worker.call is not None and worker.call.task.turn != turn]
        replied = self.channel.replied(late, wait_s) if late else []
        for worker in late:
            call = worker.call
            assert call is not None
            if worker in replied:
                try:
                    self.channel.receive(worker, LOOK_S)  # a reply of an earlier turn: nobody needs it
                except ray.exceptions.RayTaskError:
                    pass  # an exception in what nobody needs
                except (ray.exceptions.RayError, ConnectionError) as error:
                    self.give_up(worker, step, reason_of(error, worker, self.here))
                    continue
                worker.advance()
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

    def _look_at_starting(self, step: int, timeout_s: float, n_awaited: int = 1, at_start: bool = False) -> None:
        """Add workers that have started, and report those that failed; raise what all would fail with, at the start."""

        def failed(worker: RayWorker, error: Exception) -> None:
            fatal = fatal_error(self._ray, error) if at_start else None
            if fatal is not None:
                raise fatal from error
            self._last_reason = reason = reason_of(cause_of(error))
            if at_start and self._short_since is None:
                self._short_since = perf_counter()
            self._report("worker_not_started", worker, f"did not start: {reason}", step)

        for worker in self._starting.next(timeout_s, failed, n_awaited):
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
        """Wait for this number of workers, including resting ones; raise ``LostError`` after the waiting time."""
        ends = perf_counter() + self._wait_s
        while (n_there := len(self.working) + len(self._resting)) < n_workers:
            self._request()
            if not self._starting.workers or perf_counter() > ends:
                text = f"There are {n_there} of {n_workers} workers, and no more have come within {self._wait_s:g} s."
                raise LostError(text + _last_lost(self._last_reason))
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
            text = (
                f"There have been {len(self.working)} workers, fewer than {least}, for {now - self._short_since:.0f} s"
            )
            raise LostError(f"{text}{f' in step {step}' if step else ''}.{_last_lost(self._last_reason)}")

    def lose(self, worker: RayWorker, step: int, reason: str, quiet: bool = False) -> None:
        """Remove a worker that died, and request another; with ``quiet`` without an event."""
        self.working.remove(worker)
        self.channel.forget(worker)
        worker.call = worker.ahead = None
        self._last_reason = reason
        if not quiet:
            text = f"on {worker.host} is lost: {reason.rstrip('.')}; its work goes to the others."
            self._report("worker_lost", worker, text, step, reason=reason)
        self._request()

    def _report(self, kind: str, worker: RayWorker, text: str, step: int, **details: str) -> None:
        about = {"worker": worker.number, "node": worker.node, "host": worker.host, "pid": worker.pid, **details}
        about["workers"] = len(self.working)
        self._on_event(Event(kind, f"worker {worker.number} {text}", step, about))

    def give_up(self, worker: RayWorker, step: int, reason: str, quiet: bool = False) -> None:
        """End a worker that does not reply, and request another."""
        end_actor(self._ray, worker, self.here)
        self.lose(worker, step, reason, quiet)

    def close(self) -> None:
        """End all workers, unless Ray is no longer connected to them."""
        if not self._ray.connected:
            return
        for worker in [*self.working, *self._resting, *self._starting.workers]:
            self.channel.forget(worker)
            end_actor(self._ray, worker, self.here if worker.call is not None else "")
        self.working, self._resting, self._starting.workers = [], [], []


def _last_lost(reason: str) -> str:
    return f" The last one lost: {reason}" if reason else ""


def speeds_of(workers: list[RayWorker]) -> NDArray[np.float64]:
    """Relative speeds of some workers; all 1 if they differ little."""
    speeds = np.array([worker.speed for worker in workers])
    return speeds if len(speeds) and speeds.max() > _EQUAL_SPEEDS * speeds.min() else np.ones(len(workers))


def _spread(workers: list[RayWorker]) -> list[RayWorker]:
    """Order workers so that the first ones, however many, are spread over as many nodes as possible."""
    n_on: Counter[str] = Counter()
    ranked: list[tuple[int, str, int, RayWorker]] = []
    for worker in sorted(workers, key=lambda worker: worker.number):
        # The node's name makes the choice the same in every session of a cluster.
        ranked.append((n_on[worker.node], worker.node, worker.number, worker))
        n_on[worker.node] += 1
    return [worker for *_, worker in sorted(ranked, key=lambda one: one[:3])]
