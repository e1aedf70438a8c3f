"""The worker's side of a team of actors: answers messages that come over a socket or by calls of Ray."""

from __future__ import annotations

import json
import os
import platform
from abc import ABC, abstractmethod
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, TextIO

from distnum.common.errors import TrainingError
from distnum.common.machine import single_threaded_blas
from distnum.common.requirements import REQUIREMENTS, unmet
from distnum.workers.ray_pool.messages import from_this_user
from distnum.workers.ray_pool.reasons import crash_file, record_crashes, sendable_errors

__all__ = ["ServingActor"]


class ServingActor(ABC):
    """An actor that answers messages.

    Args:
        folder: Folder for sockets, in a session on the driver's own machine; None elsewhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._blas = single_threaded_blas()
        self._blas.__enter__()
        self._listener = _listener(folder)
        self._crash_file: TextIO | None = None
        if self._listener is not None:
            self._crash_file = record_crashes(crash_file(str(self._listener.address)))

    def ready(self) -> tuple[int, str, str, str | None]:
        """Process id, node, host and socket address, once the worker can be given tasks.

        Raises:
            TrainingError: This node has other versions than a submitted job needs.
        """
        import ray

        needed = os.environ.get(REQUIREMENTS)
        if needed and (wrong := unmet(json.loads(needed))):
            raise TrainingError(
                f"node {platform.node()} lacks what distnum needs: {'; '.join(wrong)}. Install that on every node."
            )
        with sendable_errors():
            self._prepare()
        address = None if self._listener is None else str(self._listener.address)
        return os.getpid(), ray.get_runtime_context().get_node_id(), platform.node(), address

    def serve(self) -> None:
        """Reply to the tasks that come over the socket, until the driver closes it.

        A task may come before the reply to the one before it; it waits in the socket.

        An exception in a task ends this call, and so reaches the driver through Ray.
        """
        assert self._listener is not None
        while not from_this_user(connection := self._listener.accept()):
            connection.close()
        with connection:
            while True:
                try:
                    message = connection.recv_bytes()
                except (EOFError, OSError):
                    return
                reply = self.compute(message, None)
                try:
                    connection.send_bytes(reply)
                except OSError:
                    return

    def compute(self, message: bytes, argument: Any) -> bytes:
        """Compute the task in a message; return the message with the reply.

        Args:
            message: The message.
            argument: What does not fit into messages, sent by a call of Ray; None if there is nothing.

        Raises:
            Exception: The function has raised it, or one that stands for it.
        """
        with sendable_errors():
            return self._compute(message, argument)

    def _prepare(self) -> None:  # noqa: B027
        """Do what is needed before the first task."""

    @abstractmethod
    def _compute(self, message: bytes, argument: Any) -> bytes: ...


def _listener(folder: Path | None) -> Listener | None:
    """A socket in a folder; None without a folder, or if its path is too long for a socket."""
    if folder is None:
        return None
    try:
        return Listener(str(folder / f"worker-{os.getpid()}"), "AF_UNIX")
    except (OSError, ValueError):
        return None
