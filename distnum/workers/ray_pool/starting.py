"""Actors that have been requested from Ray and have not reported yet."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

from distnum.common.errors import TrainingError
from distnum.workers.ray_pool.actor import DistnumWorker, cause_of, reason_of
from distnum.workers.ray_pool.channel import RayWorker

__all__ = ["LOOK_S", "START_TIMEOUT_S", "StartingActors", "end_actor"]

START_TIMEOUT_S = 180.0
"""Seconds after which an actor that has not started is given up."""

LOOK_S = 0.5
"""Seconds between looks for actors that have started."""

# After this many failed starts in a row no more actors are requested.
_MOST_FAILED_STARTS = 3


class StartingActors:
    """Requests actors and waits for them.

    Ray restarts none of them: it would lose the actor's state, and repeat lost work unnoticed.

    Args:
        ray: The connected ``ray`` module.
        setup: Ray's reference of the ``Setup``.
        n_cpus: CPUs of each actor.
        resources: Other resources of each actor, by Ray's names.
        spread: Whether to spread the actors over the nodes.
    """

    def __init__(self, ray: Any, setup: Any, n_cpus: int, resources: Mapping[str, float] | None, spread: bool) -> None:
        self._ray = ray
        self._setup = setup
        self._n_requested = self._n_failed = 0
        self.workers: list[RayWorker] = []
        others = dict(resources or {})
        options: dict[str, Any] = {"num_cpus": n_cpus, "max_restarts": 0, "max_task_retries": 0}
        options["enable_task_events"] = False  # Ray would keep a record of every call
        if gpus := others.pop("GPU", None):
            options["num_gpus"] = gpus
        options["resources"] = others
        if spread:
            options["scheduling_strategy"] = "SPREAD"
        self._actor_class = ray.remote(DistnumWorker).options(**options)

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
        """Whether several actors in a row have failed to start, so that no more are requested."""
        return self._n_failed >= _MOST_FAILED_STARTS

    def first(self, n_needed: int, own_session: bool) -> Iterator[RayWorker]:
        """Wait for the first actors of a pool, and yield them.

        Raises:
            TrainingError: They do not start, or a node lacks what they need.
        """
        ray, n_requested = self._ray, len(self.workers)
        n_needed = min(n_needed, n_requested)
        try:
            n_ready = len(self._ready(n_needed, START_TIMEOUT_S))
            if n_ready < n_needed:
                raise TrainingError(
                    f"{n_requested - n_ready} of {n_requested} workers did not start within {START_TIMEOUT_S:g} s; "
                    "is the Ray cluster busy with other work?"
                )
            # Workers that start a moment later take part from the first turn on.
            for worker in self._ready(n_requested, LOOK_S):
                yield self._joined(worker)
        except ray.exceptions.RayTaskError as error:
            cause = cause_of(error)
            if isinstance(error, ImportError) or isinstance(cause, ImportError):
                raise TrainingError(_lacks(str(cause))) from error
            raise cause from error
        except ray.exceptions.RayActorError as error:
            if "ModuleNotFoundError" in str(error):
                raise TrainingError(_lacks(str(error).strip().splitlines()[-1])) from error
            remedy = "" if own_session else " If the cluster asks for no token, set RAY_AUTH_MODE=disabled."
            raise TrainingError(f"A worker died while it started: {reason_of(error)}{remedy}") from error

    def next(self, timeout_s: float, on_failure: Callable[[RayWorker, str], None]) -> list[RayWorker]:
        """Actors that have started since the last call, as soon as there is one; an empty list after the timeout.

        ``on_failure`` is called with each actor that failed to start, and the reason.
        """
        started = []
        if self._ready(1, timeout_s):
            for worker in self._ready(len(self.workers), 0):
                try:
                    started.append(self._joined(worker))
                except self._ray.exceptions.RayError as error:
                    self.workers.remove(worker)
                    self._n_failed += 1
                    on_failure(worker, reason_of(cause_of(error)))
        return started

    def _ready(self, n_needed: int, timeout_s: float) -> list[RayWorker]:
        """Actors that have started or failed; waits for this number of them, at most until the timeout."""
        refs = [worker.ready for worker in self.workers]
        done, _ = self._ray.wait(refs, num_returns=n_needed, timeout=timeout_s)
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
    """End an actor. If it runs on the node ``here``, also kill its process: Ray would wait for a stopped one."""
    if worker.node == here and worker.pid:
        with contextlib.suppress(OSError):
            os.kill(worker.pid, signal.SIGKILL)
    with contextlib.suppress(Exception):  # the session may have ended already
        ray.kill(worker.actor)


def _lacks(what: str) -> str:
    return (
        f"A node cannot import what the workers need: {what.removeprefix('ModuleNotFoundError: ')}. Install distnum's "
        "dependencies, and what the function imports, on every node."
    )
