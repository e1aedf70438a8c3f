"""Sends tasks to workers and receives their replies: over a local socket where there is one, else by Ray calls.

A Ray call takes about two milliseconds to an actor and back, a third of a millisecond of it in the driver. In a session
of our own all workers are processes of this machine and user. Each listens on a socket in the
session's folder, and one Ray call, ``serve``, answers what comes over it. A worker that dies
closes its socket; Ray reports the reason on the pending ``serve`` call.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, wait
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from distnum.workers.ray_pool.messages import from_this_user
from distnum.workers.ray_pool.reasons import crash_file, n_oom_kills

__all__ = ["Call", "Channel", "Message", "RayWorker"]

# The speed of a worker is the median of this many measurements: one may have been disturbed.
_N_SPEEDS = 5
# Time limit of one message, which takes microseconds unless the other process was stopped.
_MESSAGE_TIMEOUT_S = 5
# A message that has to wait until the worker reads it must fit into the buffer of the socket.
_MOST_AHEAD_BYTES = 2**15
# Seconds to wait for Ray to report why a worker died.
_REASON_TIMEOUT_S = 5
# Seconds between looks whether the cluster is lost.
_CHECK_S = 1.0
# How often to look at both, where some replies come over sockets and some from Ray.
_LOOK_S = 0.01


class Message(Protocol):
    """A task, as the channel sees it."""

    @property
    def turn(self) -> int:
        """Number of the call of the driver to which the task belongs."""
        ...

    def packed(self) -> bytes:
        """The task as bytes."""
        ...


@dataclass
class Call:
    """A task that a worker is working on.

    Attributes:
        ref: Ray's reference of the reply; None if it comes over a socket.
        task: The task.
        load: The task's fraction of the turn's work, divided by the worker's speed.
        sent: Time of sending, by ``perf_counter``; of a call that was sent ahead: when the one before it ended.
        n_lost: Number of workers lost so far with these tiles.
        copied: Whether other workers have been given the same tiles.
    """

    ref: Any
    task: Any
    load: float
    sent: float
    n_lost: int = 0
    copied: bool = False


@dataclass(eq=False)
class RayWorker:
    """A worker as the driver sees it.

    Attributes:
        number: Number of the worker, never used twice.
        actor: Ray's handle of the actor.
        ready: Ray's reference of what the actor reports once it has started.
        asked: Time when the actor was requested, by ``perf_counter``.
        call: The call in progress; None if the worker is idle.
        ahead: The call that the worker begins after that one; None if there is none.
        node, host, pid: Where the worker runs.
        address: Address of the worker's socket; None if it has none.
        connection: Open connection to the socket; None if there is none.
        serving: Ray's reference of the ``serve`` call that reads the socket.
        n_oom_kills: What ``n_oom_kills`` was when the actor was requested.
        speeds: Speeds relative to the mean worker, as measured in the last turns.
    """

    number: int
    actor: Any
    ready: Any
    asked: float = field(default_factory=perf_counter)
    call: Call | None = None
    ahead: Call | None = None
    node: str = ""
    host: str = ""
    pid: int = 0
    address: str | None = None
    connection: Connection | None = None
    serving: Any = None
    n_oom_kills: int = field(default_factory=n_oom_kills)
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_N_SPEEDS))

    @property
    def speed(self) -> float:
        """Speed relative to the mean worker."""
        return float(np.median(self.speeds)) if self.speeds else 1.0

    def advance(self) -> None:
        """Note that the call in progress has ended: a call that was sent ahead is then the one in progress."""
        self.call, self.ahead = self.ahead, None
        if self.call is not None:
            self.call.sent = perf_counter()


class Channel:
    """Sends tasks to workers and receives their replies.

    Args:
        ray: The connected ``ray`` module.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def send(self, worker: RayWorker, task: Message, argument: Any, load: float, n_lost: int = 0) -> bool:
        """Send a task to a worker. A worker that has died is noticed when its reply is due.

        A worker that has a task may be sent one more of the same turn, ahead. It begins that one as soon as it has
        sent the first reply.

        Args:
            worker: The worker; this sets its ``call``, or ``ahead`` if there is a call in progress.
            task: The task.
            argument: What does not fit into messages, or Ray's reference of it; the task then goes by a call of Ray.
            load, n_lost: See ``Call``.

        Returns:
            Whether it was sent: a large message is not sent ahead, as sending waits until the worker has read it.
        """
        # Tasks and replies are sent as bytes: Ray takes a fraction of a millisecond to serialise
        # each argument and each array.
        message = task.packed()
        ref = None
        if argument is None and self._connect(worker):
            assert worker.connection is not None
            if worker.call is not None and len(message) > _MOST_AHEAD_BYTES:
                return False
            try:
                worker.connection.send_bytes(message)
            except OSError:
                worker.connection.close()
        else:
            self.disconnect(worker)
            ref = worker.actor.compute.remote(message, argument)
        call = Call(ref, task, load, perf_counter(), n_lost)
        if worker.call is None:
            worker.call = call
        else:
            worker.ahead = call
        return True

    def replied(self, workers: Sequence[RayWorker], timeout_s: float) -> list[RayWorker]:
        """Workers that have replied or died, as soon as there is one; an empty list after the timeout.

        Raises:
            LostError: The cluster is lost.
        """
        ray, ends = self._ray, perf_counter() + timeout_s
        connections: dict[Any, RayWorker] = {}
        refs: dict[Any, RayWorker] = {}
        broken = []
        for worker in workers:
            assert worker.call is not None
            if worker.call.ref is not None:
                refs[worker.call.ref] = worker
            elif worker.connection is None or worker.connection.closed:
                broken.append(worker)
            else:
                connections[worker.connection] = worker
        while True:
            ray.check()
            left_s = 0.0 if broken else min(max(0.0, ends - perf_counter()), _CHECK_S)
            if refs:
                ready = broken + [connections[one] for one in wait(list(connections), 0)]
                wait_s = 0.0 if ready else min(left_s, _LOOK_S) if connections else left_s
                done, _ = ray.wait(list(refs), timeout=wait_s)
                if done and len(refs) > 1:
                    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
                ready += [refs[ref] for ref in done]
            else:
                ready = broken + [connections[one] for one in wait(list(connections), left_s)]
            if ready or perf_counter() >= ends:
                return ready

    def receive(self, worker: RayWorker, timeout_s: float) -> bytes:
        """The reply of a worker that has replied.

        Raises:
            RayTaskError: The worker raised an exception instead.
            RayError: The worker died.
            ConnectionError: The worker's socket is broken.
        """
        call = worker.call
        assert call is not None
        if call.ref is not None:
            reply: bytes = self._ray.get(call.ref, timeout=timeout_s)
            return reply
        try:
            if worker.connection is None:
                raise EOFError
            return worker.connection.recv_bytes()
        except (EOFError, OSError):
            self.disconnect(worker)
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                self._ray.get(worker.serving, timeout=_REASON_TIMEOUT_S)
            raise ConnectionError("its connection is broken") from None

    def receive_all(self, workers: Sequence[RayWorker], timeout_s: float) -> Iterator[tuple[RayWorker, bytes]]:
        """Replies of all workers, as they come, until the timeout; Ray's are received together.

        Raises:
            RayError, ConnectionError: One of the workers failed.
        """
        if all(worker.call is not None and worker.call.ref is not None for worker in workers):
            refs = [worker.call.ref for worker in workers if worker.call is not None]
            yield from zip(workers, self._ray.get(refs, timeout=timeout_s), strict=True)
            return
        ends, left = perf_counter() + timeout_s, list(workers)
        while left and (ready := self.replied(left, max(0.0, ends - perf_counter()))):
            for worker in ready:
                left.remove(worker)
                yield worker, self.receive(worker, timeout_s)

    def disconnect(self, worker: RayWorker) -> None:
        """Close the connection to a worker, which then takes Ray calls again."""
        if worker.connection is not None:
            worker.connection.close()
            worker.connection = None

    def forget(self, worker: RayWorker) -> None:
        """Remove the connection and the socket of a worker that has ended."""
        self.disconnect(worker)
        if worker.address is not None:
            for file in (worker.address, crash_file(worker.address)):
                with contextlib.suppress(OSError):  # its folder may be gone
                    os.unlink(file)

    def _connect(self, worker: RayWorker) -> bool:
        """Connect to a worker's socket if it has one; return whether there is a connection."""
        if worker.connection is None and worker.address is not None:
            try:
                connection = Client(worker.address, "AF_UNIX")
                if not from_this_user(connection):
                    connection.close()
                    raise PermissionError("the socket belongs to another user")
            except OSError:
                worker.address = None
                return False
            worker.connection = connection
            _limit_message_time(worker.connection)
            worker.serving = worker.actor.serve.remote()
        return worker.connection is not None


def _limit_message_time(connection: Connection) -> None:
    """Let sending or receiving a message fail after ``_MESSAGE_TIMEOUT_S``."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _MESSAGE_TIMEOUT_S, 0))
