"""Actors that have been requested from Ray and have not reported yet."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

from distnum.common.errors import TrainingError
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.reasons import cause_of
from distnum.workers.ray_pool.serving import ServingActor

__all__ = ["LOOK_S", "START_TIMEOUT_S", "StartingActors", "end_actor", "fatal_error"]

START_TIMEOUT_S = 180.0
"""Seconds after which an actor that has not started is given up."""

LOOK_S = 0.5
"""Seconds between looks for actors that have started."""

# After this number of failed starts in a row no more actors are requested.
_MOST_FAILED_STARTS = 3


class StartingActors:
    """Requests actors and waits for them.

    Ray restarts none of them: it would lose the actor's state, and repeat lost work unnoticed.

    Args:
        ray: The connected ``ray`` module.
        actor_class: Class of the actors; each is made from the setup alone.
        setup: Ray's reference of the setup.
        n_cpus: CPUs of each actor; with 0, Ray starts it however many CPUs are free.
        resources: Other resources of each actor, by Ray's names.
        spread: Whether to spread the actors over the nodes.
    """

    def __init__(
        self,
        ray: Any,
        actor_class: type[ServingActor],
        setup: Any,
        n_cpus: int,
        resources: Mapping[str, float],
        spread: bool,
    ) -> None:
        self._ray = ray
        self._setup = setup
        self.spread = spread
        self._n_requested = self._n_failed = 0
        self._failed = 0.0  # time of the last failure that was counted
        self.workers: list[RayWorker] = []
        others = dict(resources)
        options: dict[str, Any] = {"num_cpus": n_cpus, "max_restarts": 0, "max_task_retries": 0}
        options["enable_task_events"] = False  # Ray would keep a record of every call
        if gpus := others.pop("GPU", None):
            options["num_gpus"] = gpus
        options["resources"] = others
        if spread:
            options["scheduling_strategy"] = "SPREAD"
        self._actor_class = ray.remote(actor_class).options(**options)

    def request(self, n_actors: int) -> None:
        """Request actors, unless several have failed in a row; Ray starts them when and where there is room."""
        if self.hopeless:
            return
        for _ in range(n_actors):
            self._n_requested += 1
            actor = self._actor_class.remote(self._setup)
            self.workers.append(RayWorker(self._n_requested, actor, actor.ready.remote()))

    @property
    def hopeless(self) -> bool:
        """Whether actors have failed to start several times in a row, so that no more are requested."""
        return self._n_failed >= _MOST_FAILED_STARTS

    def next(
        self, timeout_s: float, on_failure: Callable[[RayWorker, Exception], None], n_awaited: int = 1
    ) -> Iterator[RayWorker]:
        """Yield the actors that have started since the last call.

        Args:
            timeout_s: Seconds to wait at most.
            on_failure: Called with each actor that failed to start, and Ray's error.
            n_awaited: Number of actors to wait for.
        """
        for worker in self._ready(n_awaited, timeout_s):
            try:
                joined = self._joined(worker)
            except self._ray.exceptions.RayError as error:
                self.workers.remove(worker)
                end_actor(self._ray, worker)  # an exception of ``ready`` does not end it
                # Actors that were requested together often fail together, as with their node.
                if worker.asked > self._failed:
                    self._n_failed, self._failed = self._n_failed + 1, perf_counter()
                on_failure(worker, error)
            else:
                yield joined

    def _ready(self, n_awaited: int, timeout_s: float) -> list[RayWorker]:
        """Actors that have started or failed; waits for this number of them, at most until the timeout."""
        refs = [worker.ready for worker in self.workers]
        done, left = self._ray.wait(refs, num_returns=min(n_awaited, len(refs)), timeout=timeout_s)
        if done and left:  # Ray returns no more than it was asked for
            done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [worker for worker in self.workers if worker.ready in done]

    def _joined(self, worker: RayWorker) -> RayWorker:
        """Move what a started actor reports into its handle; an actor that failed stays among the starting ones."""
        worker.pid, worker.node, worker.host, worker.address = self._ray.get(worker.ready)
        self.workers.remove(worker)
        self._n_failed = 0
        return worker

    def expire(self) -> None:
        """End actors that hang while they start, or for which there has been no room for long."""
        now = perf_counter()
        for worker in [worker for worker in self.workers if now > worker.asked + START_TIMEOUT_S]:
            self.workers.remove(worker)
            end_actor(self._ray, worker)


def end_actor(ray: Any, worker: RayWorker, here: str = "") -> None:
    """End an actor. If it runs on the node ``here``, also kill its process: Ray would wait for a stopped one.

    The process group that it leads, if it does, ends with it: children of the function.
    """
    if worker.node == here and worker.pid:
        with contextlib.suppress(OSError):
            leads = hasattr(os, "getpgid") and os.getpgid(worker.pid) == worker.pid
            (os.killpg if leads else os.kill)(worker.pid, signal.SIGKILL)
    with contextlib.suppress(Exception):  # the session may have ended already
        ray.kill(worker.actor)


def fatal_error(ray: Any, error: Exception) -> BaseException | None:
    """The error to raise for an actor that failed to start, if every other one would fail as well; else None."""
    cause = cause_of(error)
    lacking = str(cause) if isinstance(error, ImportError) or isinstance(cause, ImportError) else ""
    if not lacking and "ModuleNotFoundError" in str(error):
        lacking = str(error).strip().splitlines()[-1]
    if lacking:
        return TrainingError(
            f"A node cannot import what the workers need: {lacking.removeprefix('ModuleNotFoundError: ')}. Install "
            "distnum's dependencies, and what the function imports, on every node."
        )
    return cause if isinstance(error, ray.exceptions.RayTaskError) else None
