"""The workers of a pool as Ray actors: those at work, those that start, and those given up.

No actor is restarted by Ray, which would lose its state and compute lost work again without
a word. A worker that is lost is replaced here, as far as the cluster has room.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import TrainingError
from distnum.common.events import Event, OnEvent
from distnum.workers.ray_pool.actor import DistnumWorker, cause_of, reason_of
from distnum.workers.ray_pool.channel import Call, Channel, RayWorker

__all__ = ["Roster"]

_START_TIMEOUT_S = 180.0

# How often to look for workers that have started, and for room for more.
_LOOK_S, _ROOM_S = 0.5, 2.0

# A start that fails so often in a row has a reason that will not go away.
_MOST_FAILED_STARTS = 3

# Speeds that differ by less are taken as equal.
_EQUAL_SPEEDS = 1.15


class Roster:
    """Keeps as many workers as are wanted, and there is room for.

    Args:
        ray: the module, connected.
        setup: a reference of the ``Setup``.
        n_threads: of each; an actor asks Ray for as many CPUs.
        at_start: so many must be there before the first step.
        least: fewer for longer than ``wait_s`` end the work.
        most: gives how many are wanted at most, from the cluster as it is now.
        wait_s: seconds to wait for workers where there are too few.
        own: whether the session was started here.
        on_event: called with each event: workers that come and go.
        resources: that each asks Ray for, beside CPUs.
    """

    def __init__(
        self,
        ray: Any,
        setup: Any,
        n_threads: int,
        at_start: int,
        least: int,
        most: Callable[[], int],
        wait_s: float,
        own: bool,
        on_event: OnEvent,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._ray = ray
        self.channel = Channel(ray)
        self._actor_class = ray.remote(DistnumWorker)
        self._setup = setup
        self._n_cpus = n_threads
        self._at_start = at_start
        self._least = least
        self._most = most
        self._wait_s = wait_s
        self._own = own
        self._resources = dict(resources or {})
        self.n_threads = n_threads
        self.offset = 0
        self.on_event = on_event
        self.here = ray.get_runtime_context().get_node_id()
        self._n_started = 0
        self._n_failed = 0
        self._starting: list[RayWorker] = []
        self.working: list[RayWorker] = []
        self._resting: list[RayWorker] = []
        self._looked = self._asked = 0.0
        self._short_since: float | None = None
        self._last_reason = ""

    @property
    def idle(self) -> list[RayWorker]:
        """The workers that can be given something."""
        return [worker for worker in self.working if worker.call is None]

    @property
    def is_any_late(self) -> bool:
        """Whether one of them, resting or not, has not answered yet."""
        return any(worker.call is not None for worker in [*self.working, *self._resting])

    def speeds(self, workers: list[RayWorker]) -> NDArray[np.float64]:
        """Of some workers, beside each other; equal where they nearly are."""
        found = np.array([worker.speed for worker in workers])
        return found if found.max() > _EQUAL_SPEEDS * found.min() else np.ones(len(workers))

    def use(self, n_workers: int, n_threads: int, offset: int) -> None:
        """Give work to so many of the workers, on as many nodes as that can be, with so many threads each.

        They draw the batch of a step by its number plus ``offset``.
        """
        n_on: Counter[str] = Counter()
        ranked: list[tuple[int, str, int, RayWorker]] = []
        for worker in sorted([*self.working, *self._resting], key=lambda worker: worker.number):
            # The same nodes first in every session of a cluster.
            ranked.append((n_on[worker.node], worker.node, worker.number, worker))
            n_on[worker.node] += 1
            worker.speeds.clear()
        everyone = [worker for *_, worker in sorted(ranked, key=lambda one: one[:3])]
        self.working, self._resting = everyone[:n_workers], everyone[n_workers:]
        self.n_threads = n_threads
        self.offset = offset

    # --- coming -------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers that are wanted, and wait for those that must be there.

        Raises:
            TrainingError: they do not start.
        """
        ray = self._ray
        self._ask()
        try:
            n_needed = min(self._at_start, len(self._starting))
            refs = [worker.ready for worker in self._starting]
            ready, _ = ray.wait(refs, num_returns=n_needed, timeout=_START_TIMEOUT_S)
            if len(ready) < n_needed:
                raise TrainingError(
                    f"{len(refs) - len(ready)} of {len(refs)} workers did not start within {_START_TIMEOUT_S:g} s; "
                    "is the Ray cluster busy with other work?"
                )
            # Others that are as good as there come along.
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=_LOOK_S)
            for worker in list(self._starting):
                if worker.ready in ready:
                    self._join(worker, ray.get(worker.ready), 0)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error, ImportError) or isinstance(cause_of(error), ImportError):
                raise TrainingError(_lacks(str(cause_of(error)))) from error
            raise cause_of(error) from error
        except ray.exceptions.RayActorError as error:
            if "ModuleNotFoundError" in str(error):
                raise TrainingError(_lacks(str(error).strip().splitlines()[-1])) from error
            remedy = "" if self._own else " If the cluster asks for no token, set RAY_AUTH_MODE=disabled."
            raise TrainingError(f"A worker died while it started: {reason_of(error)}{remedy}") from error

    def _ask(self, at_least: int = 0) -> None:
        """Ask Ray for the workers that are missing; it starts them where and when there is room."""
        if self._n_failed >= _MOST_FAILED_STARTS:
            return
        n_there = len(self.working) + len(self._resting) + len(self._starting)
        for _ in range(max(at_least, self._most()) - n_there):
            self._n_started += 1
            options: dict[str, Any] = {"num_cpus": self._n_cpus, "max_restarts": 0, "max_task_retries": 0}
            options["enable_task_events"] = False  # Ray would keep a record of every call
            others = dict(self._resources)
            if gpus := others.pop("GPU", None):
                options["num_gpus"] = gpus
            options["resources"] = others
            if not self._own:
                options["scheduling_strategy"] = "SPREAD"
            actor = self._actor_class.options(**options).remote(self._setup)
            self._starting.append(RayWorker(self._n_started, actor, actor.ready.remote()))

    def _join(self, worker: RayWorker, about: tuple[int, str, str, str | None], step: int) -> None:
        worker.pid, worker.node, worker.host, worker.address = about
        self._starting.remove(worker)
        self.working.append(worker)
        self._n_failed = 0
        text = f"worker {worker.number} joined on {worker.host}; there are {len(self.working)} now."
        self.on_event(Event("worker_joined", text, step, self._about(worker)))

    def _about(self, worker: RayWorker) -> dict[str, Any]:
        about = {"worker": worker.number, "node": worker.node, "host": worker.host, "pid": worker.pid}
        return about | {"workers": len(self.working)}

    def refresh(self, step: int, deadline_of: Callable[[Call], float], wait_s: float = 0) -> None:
        """Take note of who has come, who has answered late, and who has been silent for too long."""
        ray, now = self._ray, perf_counter()
        late = [worker for worker in self.working if worker.call is not None]
        answered = self.channel.answered(late, wait_s) if late else []
        for worker in late:
            call = worker.call
            assert call is not None
            if worker in answered:
                try:
                    self.channel.answer(worker, _LOOK_S)  # which is of a turn that is over
                except ray.exceptions.RayTaskError:
                    pass  # of the user's function, in a slice that others have computed
                except (ray.exceptions.RayError, ConnectionError) as error:  # it is dead, or its node is out of reach
                    self.give_up(worker, step, reason_of(error))
                    continue
                worker.call = None
            elif now - call.sent > deadline_of(call):
                self.give_up(worker, step, f"it has not answered for {now - call.sent:.1f} s")
        if now > self._asked + _ROOM_S:
            self._asked = now
            self._ask()
        if self._starting and (now > self._looked + _LOOK_S or not self.working):
            self._looked = now
            self._look_at_starting(step, 0)
            self._forget_the_overdue(now)
        self._check_enough(step)

    def _look_at_starting(self, step: int, timeout_s: float) -> None:
        ray = self._ray
        refs = [worker.ready for worker in self._starting]
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready and len(refs) > 1:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for worker in [worker for worker in self._starting if worker.ready in ready]:
            try:
                self._join(worker, ray.get(worker.ready), step)
            except ray.exceptions.RayError as error:
                self._starting.remove(worker)
                self._n_failed += 1
                self._last_reason = reason_of(cause_of(error))
                text = f"worker {worker.number} did not start: {self._last_reason}"
                self.on_event(Event("worker_not_started", text, step, {"worker": worker.number}))

    def _forget_the_overdue(self, now: float) -> None:
        """End those that hang while they start, or have found no room; others are asked for in their place."""
        for worker in [worker for worker in self._starting if now > worker.asked + _START_TIMEOUT_S]:
            self._starting.remove(worker)
            self._end(worker)

    def wait_for_one(self, step: int, deadline_of: Callable[[Call], float]) -> None:
        """Wait a moment for a worker that can be given something, where there is none.

        Raises:
            TrainingError: there has been none for too long.
        """
        if self.working:
            self.refresh(step, deadline_of, _LOOK_S)
            return
        if self._starting:
            self._look_at_starting(step, _LOOK_S)
            self._forget_the_overdue(perf_counter())
        else:
            self._ask(at_least=1)
        self._check_enough(step)

    def wait_for(self, n_workers: int) -> None:
        """Wait until there are so many, resting ones too.

        Raises:
            TrainingError: they do not come.
        """
        ends = perf_counter() + self._wait_s
        while len(self.working) + len(self._resting) < n_workers:
            self._ask()
            if not self._starting or perf_counter() > ends:
                n_there = len(self.working) + len(self._resting)
                raise TrainingError(
                    f"There are {n_there} of {n_workers} workers, and no more have come for {self._wait_s:g} s. "
                    f"The last one lost: {self._last_reason}"
                )
            self._look_at_starting(0, _LOOK_S)

    def _check_enough(self, step: int) -> None:
        if len(self.working) >= self._least:
            self._short_since = None
            return
        now = perf_counter()
        if self._short_since is None:
            self._short_since = now
            if self._least > 1:
                text = (
                    f"there are {len(self.working)} workers, fewer than the {self._least} that are needed; "
                    f"waiting for more for {self._wait_s:g} s."
                )
                self.on_event(Event("workers_short", text, step, {"workers": len(self.working)}))
        hopeless = not self.working and not self._starting and self._n_failed >= _MOST_FAILED_STARTS
        if hopeless or now > self._short_since + self._wait_s:
            last = f" The last one lost: {self._last_reason}" if self._last_reason else ""
            raise TrainingError(
                f"There have been {len(self.working)} workers, fewer than {self._least}, for "
                f"{now - self._short_since:.0f} s in step {step}.{last}"
            )

    # --- going --------------------------------------------------------------------

    def lose(self, worker: RayWorker, step: int, why: str) -> None:
        """A worker is gone; ask for another."""
        self.working.remove(worker)
        self.channel.forget(worker)
        worker.call = None
        self._last_reason = why
        text = f"worker {worker.number} on {worker.host} is lost: {why.rstrip('.')}; its work goes to the others."
        self.on_event(Event("worker_lost", text, step, self._about(worker) | {"reason": why}))
        self._ask()

    def give_up(self, worker: RayWorker, step: int, why: str) -> None:
        """End a worker that does not answer."""
        self._end(worker)
        self.lose(worker, step, why)

    def _end(self, worker: RayWorker) -> None:
        if worker.node == self.here and worker.pid:
            with contextlib.suppress(OSError):  # Ray's own request waits for an answer of a stopped process
                os.kill(worker.pid, signal.SIGKILL)
        with contextlib.suppress(Exception):  # the session may be gone already
            self._ray.kill(worker.actor)

    def close(self) -> None:
        """End all workers."""
        for worker in [*self.working, *self._resting, *self._starting]:
            self.channel.forget(worker)
            if worker.call is not None:
                self._end(worker)
            else:
                with contextlib.suppress(Exception):  # the session may be gone already
                    self._ray.kill(worker.actor)
        self.working, self._resting, self._starting = [], [], []


def _lacks(what: str) -> str:
    return (
        f"A node cannot import what the workers need: {what.removeprefix('ModuleNotFoundError: ')}. Install distnum's "
        "dependencies, and what the function imports, on every node."
    )
