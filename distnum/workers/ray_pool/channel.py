"""How a worker is asked, and answers: over a socket of this machine where there is one, else by calls of Ray.

A call of Ray takes a millisecond on its way to an actor and back, and a third of one of the
driver's time. In a session of our own all workers are processes of this machine and this user:
each listens at a socket in the session's folder, and one call of Ray, ``serve``, answers
whatever comes there. Who dies closes its socket; why it died, Ray tells of that call.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, wait
from time import perf_counter
from typing import Any

import numpy as np

from distnum.workers.ray_pool.actor import Task

__all__ = ["Call", "Channel", "RayWorker"]


# Of the last measurements of a worker's speed, the median counts: one may have been disturbed.
_N_SPEEDS = 5

# A message takes microseconds, unless who is to read it was stopped in the middle.
_MESSAGE_TIMEOUT_S = 5

# How long to wait for Ray to know why a worker is gone.
_REASON_TIMEOUT_S = 5

# How often to look at both, where some answers come over sockets and some from Ray.
_LOOK_S = 0.01


@dataclass
class Call:
    """A task that a worker has been given.

    Attributes:
        ref: of its answer; None where that comes over a socket.
        task: what was asked for.
        load: share of the whole gradient's work, over the worker's speed.
        sent: when, by ``perf_counter``.
        n_lost: how many workers have been lost with these tiles before.
        copied: whether others have been given the same.
    """

    ref: Any
    task: Task
    load: float
    sent: float
    n_lost: int = 0
    copied: bool = False


@dataclass(eq=False)
class RayWorker:
    """A worker as the driver sees it.

    Attributes:
        number: never used again.
        actor: its handle.
        ready: the reference of what it says once it has started.
        asked: when it was asked for, by ``perf_counter``.
        call: what it is at; None if it is idle.
        node, host, pid: where it runs.
        address: of its socket; None if it has none.
        line: the connection to it, and ``serving`` the reference of the call that answers there.
        speeds: beside the others, as measured in the last steps.
    """

    number: int
    actor: Any
    ready: Any
    asked: float = field(default_factory=perf_counter)
    call: Call | None = None
    node: str = ""
    host: str = ""
    pid: int = 0
    address: str | None = None
    line: Connection | None = None
    serving: Any = None
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_N_SPEEDS))

    @property
    def speed(self) -> float:
        """Beside the others: 1 is the mean."""
        return float(np.median(self.speeds)) if self.speeds else 1.0


class Channel:
    """Asks workers, and takes their answers.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def ask(self, worker: RayWorker, task: Task, params: Any, load: float, n_lost: int = 0) -> None:
        """Ask for a shard; ``params`` is a reference of the parameters, None where they are shared.

        A worker that is gone is noticed when its answer is due.
        """
        # As bytes, and so the answers: Ray takes a fraction of a millisecond to serialise each
        # argument and each array of another kind.
        message = pickle.dumps(task)
        ref = None
        if params is None and self._has_line(worker):
            assert worker.line is not None
            try:
                worker.line.send_bytes(message)
            except OSError:
                worker.line.close()
        else:
            self.disconnect(worker)
            ref = worker.actor.grad_slice.remote(message, params)
        worker.call = Call(ref, task, load, perf_counter(), n_lost)

    def answered(self, workers: Sequence[RayWorker], timeout_s: float) -> list[RayWorker]:
        """Those whose answers, or ends, are there: as soon as there is one; none if the time is over before."""
        ray, ends = self._ray, perf_counter() + timeout_s
        lines: dict[Any, RayWorker] = {}
        refs: dict[Any, RayWorker] = {}
        gone = []
        for worker in workers:
            assert worker.call is not None
            if worker.call.ref is not None:
                refs[worker.call.ref] = worker
            elif worker.line is None or worker.line.closed:
                gone.append(worker)
            else:
                lines[worker.line] = worker
        while True:
            left_s = 0.0 if gone else max(0.0, ends - perf_counter())
            if not refs:
                return gone + [lines[line] for line in wait(list(lines), left_s)]
            found = gone + [lines[line] for line in wait(list(lines), 0)]
            ready, _ = ray.wait(list(refs), timeout=0 if found else min(left_s, _LOOK_S) if lines else left_s)
            if ready and len(refs) > 1:
                ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
            found += [refs[ref] for ref in ready]
            if found or perf_counter() >= ends:
                return found

    def answer(self, worker: RayWorker, timeout_s: float) -> bytes:
        """The answer of a worker that has answered.

        Raises:
            RayTaskError: what it raised instead.
            RayError: it is gone.
            ConnectionError: its socket is broken.
        """
        call = worker.call
        assert call is not None
        if call.ref is not None:
            answer: bytes = self._ray.get(call.ref, timeout=timeout_s)
            return answer
        try:
            if worker.line is None:
                raise EOFError
            return worker.line.recv_bytes()
        except (EOFError, OSError):
            self.disconnect(worker)
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                self._ray.get(worker.serving, timeout=_REASON_TIMEOUT_S)
            raise ConnectionError("its connection is broken") from None

    def answers(self, workers: Sequence[RayWorker], timeout_s: float) -> Iterator[tuple[RayWorker, bytes]]:
        """The answers of all, until one does not come: at once from Ray, one by one over sockets.

        Raises:
            RayError, ConnectionError: of one of them.
        """
        if all(worker.call is not None and worker.call.ref is not None for worker in workers):
            refs = [worker.call.ref for worker in workers if worker.call is not None]
            yield from zip(workers, self._ray.get(refs, timeout=timeout_s), strict=True)
            return
        ends, left = perf_counter() + timeout_s, list(workers)
        while left and (found := self.answered(left, max(0.0, ends - perf_counter()))):
            for worker in found:
                left.remove(worker)
                yield worker, self.answer(worker, timeout_s)

    def disconnect(self, worker: RayWorker) -> None:
        """Close the connection to a worker, which can be called by Ray then."""
        if worker.line is not None:
            worker.line.close()
            worker.line = None

    def forget(self, worker: RayWorker) -> None:
        """Leave nothing of a worker that is ended."""
        self.disconnect(worker)
        if worker.address is not None:
            with contextlib.suppress(OSError):  # its folder may be gone
                os.unlink(worker.address)

    def _has_line(self, worker: RayWorker) -> bool:
        """Whether there is a connection to a worker, or can be."""
        if worker.line is None and worker.address is not None:
            try:
                worker.line = Client(worker.address, "AF_UNIX")
            except OSError:
                worker.address = None
                return False
            _limit(worker.line)
            worker.serving = worker.actor.serve.remote()
        return worker.line is not None


def _limit(line: Connection) -> None:
    """Let no message take longer than it ever should."""
    with socket.fromfd(line.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _MESSAGE_TIMEOUT_S, 0))
