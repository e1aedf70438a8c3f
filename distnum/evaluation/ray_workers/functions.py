"""The functions that workers hold."""

from __future__ import annotations

from typing import Any

from distnum.evaluation.ray_workers.jobs import Job
from distnum.workers.ray_pool.channel import RayWorker

__all__ = ["Functions"]


class Functions:
    """The functions that workers hold, and how long they take.

    Args:
        ray: The connected ``ray`` module.
    """

    MOST = 8

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._held: dict[int, dict[str, None]] = {}  # by the worker's number, in the order of their last use
        self._sent: tuple[str, Any] | None = None
        self.seconds: dict[str, float] = {}

    def has(self, worker: RayWorker, name: str) -> bool:
        """Whether a worker holds a function; this counts as a use of it."""
        held = self._held.setdefault(worker.number, {})
        if name not in held:
            return False
        held[name] = held.pop(name)
        return True

    def send(self, worker: RayWorker, job: Job[Any]) -> Any:
        """Send a worker the function of a job; return Ray's reference of the call."""
        if self._sent is None or self._sent[0] != job.function:
            self._sent = job.function, self._ray.put(job.pickled)
        kept = list(self._held.setdefault(worker.number, {}))[-self.MOST + 1 :]
        self._held[worker.number] = dict.fromkeys(kept)
        return worker.actor.take.remote(job.function, self._sent[1], kept)

    def sent(self, worker: RayWorker, name: str) -> None:
        """Note that a worker holds a function."""
        self._held[worker.number][name] = None

    def forget(self, worker: RayWorker) -> None:
        """Forget a worker that has ended."""
        self._held.pop(worker.number, None)

    def learn(self, name: str, seconds: float) -> None:
        """Remember how long an evaluation takes."""
        self.seconds.pop(name, None)
        self.seconds[name] = seconds
        if len(self.seconds) > 100:
            del self.seconds[next(iter(self.seconds))]
