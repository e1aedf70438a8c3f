"""Calls of Ray that end when the cluster is lost, where Ray itself would wait without a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from distnum.common.errors import TrainingError
from distnum.workers.ray_pool.ray_module import connection_of
from distnum.workers.ray_pool.watch import ClusterWatch

__all__ = ["GuardedRay"]

_LOOK_S = 0.25


class GuardedRay:
    """The ``ray`` module, with limits to the calls that need the control service or the object store.

    Such a call is made on another thread, and raises ``LostError`` when the cluster is lost. Its
    thread stays behind if Ray never returns from it.

    Args:
        ray: The connected ``ray`` module.
        watch: Knows whether the cluster is lost; it ends with this object.
    """

    def __init__(self, ray: Any, watch: ClusterWatch) -> None:
        self._ray = ray
        self._watch = watch
        self._connection = connection_of(ray)
        self._idle: list[_Caller] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ray, name)

    @property
    def connected(self) -> bool:
        """Whether the connection to Ray is still that of the beginning."""
        return connection_of(self._ray) == self._connection

    def check(self) -> None:
        """Raise an error if the cluster is lost, or if Ray is no longer connected to it.

        Raises:
            LostError: The cluster is lost.
            TrainingError: The user's program has shut Ray down.
        """
        if not self.connected:  # Ray would start a session by itself
            raise TrainingError(
                "Ray was shut down by the program (ray.shutdown) while it computed; call that after the training only."
            )
        self._watch.check()

    def put(self, value: Any) -> Any:
        """``ray.put``."""
        return self._call(self._ray.put, value)

    def get(self, refs: Any, timeout: float | None = None) -> Any:
        """``ray.get``."""
        return self._call(self._ray.get, refs, timeout=timeout)

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        """``ray.wait``."""
        done, left = self._call(self._ray.wait, refs, num_returns=num_returns, timeout=timeout)
        return done, left

    def nodes(self) -> list[dict[str, Any]]:
        """``ray.nodes``."""
        nodes: list[dict[str, Any]] = self._call(self._ray.nodes)
        return nodes

    def kill(self, actor: Any) -> None:
        """``ray.kill``."""
        self._call(self._ray.kill, actor)

    def nodes_later(self) -> Future[list[dict[str, Any]]]:
        """Begin ``ray.nodes``; return its outcome, to be looked at later."""
        return self._begin(self._ray.nodes)

    def _begin(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        caller = self._idle.pop() if self._idle else _Caller(self._idle)
        outcome: Future[Any] = Future()
        caller.jobs.put((outcome, lambda: function(*arguments, **options)))
        return outcome

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.check()
        outcome = self._begin(function, *arguments, **options)
        while not wait([outcome], _LOOK_S).done:
            self._watch.check()
        return outcome.result()

    def close(self) -> None:
        """End the watch and the threads; a thread that Ray holds stays behind."""
        self._watch.close()
        while self._idle:
            self._idle.pop().jobs.put(None)


class _Caller:
    """A thread that makes one call after the other, and offers itself in ``idle`` after each."""

    def __init__(self, idle: list[_Caller]) -> None:
        self.jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = idle
        threading.Thread(target=self._work, daemon=True, name="distnum-ray-calls").start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            outcome, call = job
            try:
                result = call()
            except BaseException as error:
                self._idle.append(self)
                outcome.set_exception(error)
            else:
                self._idle.append(self)
                outcome.set_result(result)
            del job, outcome, call  # they hold references to Ray's objects
