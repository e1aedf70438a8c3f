"""Actors of one kind in a Ray session: what ``RayPool`` and the evaluation of functions have in common."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError
from distnum.common.events import OnEvent
from distnum.common.text import first_line
from distnum.workers.pool import Closing
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.cluster import RayCluster
from distnum.workers.ray_pool.guarded import GuardedRay
from distnum.workers.ray_pool.roster import Roster, WorkerCounts
from distnum.workers.ray_pool.serving import ServingActor
from distnum.workers.ray_pool.session import ray_session
from distnum.workers.ray_pool.starting import StartingActors
from distnum.workers.ray_pool.watch import ClusterWatch

__all__ = ["RayTeam", "sendable"]


class RayTeam(Closing):
    """A Ray session and the workers in it.

    The session begins here, the workers with ``start``.

    Args:
        n_workers: Number of workers, or a function that returns the counts for a number of CPUs and
            nodes of the cluster; it is called again when nodes come and go.
        n_threads: Threads of each worker; an actor requests this number of CPUs.
        address: Address of a running Ray cluster; None starts one on this machine, which ends
            with the team. A session that this process has started already is used as it is.
        n_asked: CPUs that a session started here must have.
        resources: Resources of each worker besides CPUs, by Ray's names.
        meanwhile: Called while the Ray session starts, which takes seconds.

    Attributes:
        ray: The connected ``ray`` module.
        folder: Folder for sockets and mapped files, in a session that this process has started; None in others.
        cluster: What the cluster has.
        counts: Numbers of workers that are wanted at the start.
        roster: The workers; there after ``start``.
        stack: Ends the session; callbacks that are added to it before ``start`` are called before that, and after the
            end of the workers.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs or resources.
    """

    roster: Roster

    def __init__(
        self,
        n_workers: int | Callable[[int, int], WorkerCounts],
        n_threads: int = 1,
        address: str | None = None,
        *,
        n_asked: int | None = None,
        resources: Mapping[str, float] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.stack = contextlib.ExitStack()
        self._pid = os.getpid()
        self._resources = resources or {}
        # Before Ray's own end: a generator of steps that was left unfinished is closed after that.
        atexit.register(self.close)
        try:
            asked = n_asked if n_asked is not None else 1 if callable(n_workers) else n_workers
            session = ray_session(address, asked * n_threads, asked, meanwhile)
            ray, self.folder, shared = self.stack.enter_context(session)
            self.ray = self.stack.enter_context(contextlib.closing(GuardedRay(ray, ClusterWatch(ray))))
            self._count_cpus = self.folder is None or not shared
            self.cluster = cluster = RayCluster(self.ray)
            counts_of = n_workers if callable(n_workers) else _fixed(n_workers, n_threads)
            self._counts = partial(cluster.counts, counts_of)
            self.counts = counts = self._counts()
            cluster.check_room(counts.at_start if self._count_cpus else 0, counts.n_threads, self._resources)
        except BaseException:
            self.close()
            raise

    folder: Path | None

    @property
    def own_session(self) -> bool:
        """Whether this process started the Ray session, on this machine alone."""
        return self.folder is not None

    @property
    def workers(self) -> list[RayWorker]:
        """The workers that are used."""
        return self.roster.working

    def start(self, actor_class: type[ServingActor], setup: Any, wait_s: float, on_event: OnEvent) -> None:
        """Start the workers.

        Args:
            actor_class: Class of the actors; each is made from the setup alone.
            setup: Sent once to each node.
            wait_s: Seconds to wait when there are too few workers.
            on_event: Called with an event when a worker joins, is lost or fails to start.

        Raises:
            InputError: The setup cannot be sent.
            TrainingError: The workers do not start.
        """
        n_cpus = self.counts.n_threads if self._count_cpus else 0
        reference = sendable(self.ray, self.ray.put, setup)
        spread = not self.own_session
        starting = StartingActors(self.ray, actor_class, reference, n_cpus, self._resources, spread)
        self.roster = Roster(self.ray, starting, self._counts, wait_s, on_event)
        self.stack.callback(self.roster.close)
        self.roster.start()

    def close(self) -> None:
        """End the workers, and the session if this team is its last user."""
        if os.getpid() != self._pid:  # in a copy of the process (fork)
            return
        atexit.unregister(self.close)
        self.stack.close()


def _fixed(n_workers: int, n_threads: int) -> Callable[[int, int], WorkerCounts]:
    """Counts that do not depend on the cluster; one worker is enough to go on with."""
    return lambda n_cpus, n_nodes: WorkerCounts(1, n_workers, n_workers, n_threads)


def sendable(ray: Any, send: Callable[[Any], Any], value: Any) -> Any:
    """``send(value)``, where ``send`` pickles a function of the user, or its data.

    Raises:
        InputError: It cannot be pickled.
    """
    script = sys.modules.get("__mp_main__")
    if script is not None:
        # The program's script in a child of multiprocessing, which workers cannot import.
        ray.cloudpickle.register_pickle_by_value(script)
    try:
        return send(value)
    except (TypeError, ValueError, pickle.PicklingError) as error:
        raise InputError(
            "the function or its data cannot be sent to workers, as it holds something that cannot be pickled: "
            f"{first_line(error.__cause__ or error)}. Leave that out, or compute in this process: workers=0."
        ) from None
