"""Messages between the driver and its workers: numbers, texts and arrays, in a form that cannot execute code."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from distnum.common.packing import packed, unpacked
from distnum.workers.pool import Reply
from distnum.workers.worker import Task

__all__ = ["RayTask", "from_this_user", "packed_reply", "packed_task", "unpacked_reply", "unpacked_task"]


@dataclass(frozen=True)
class RayTask(Task):
    """A task with the shared memory that it uses.

    Attributes:
        vectors: File of the ``SharedVectors``; None if parameters and answers are sent.
        blocks: File and shape of the ``SharedBlocks``; None if there are none.
        rank: Position of the worker among its peers, at least 0 and below 1.
    """

    vectors: Path | None = None
    blocks: tuple[Path, tuple[int, int]] | None = None
    rank: float = 0.0

    def packed(self) -> bytes:
        """The message for the task."""
        return packed_task(self)


def packed_task(task: RayTask) -> bytes:
    """The message for a task."""
    vectors = None if task.vectors is None else str(task.vectors)
    blocks = None if task.blocks is None else [str(task.blocks[0]), *task.blocks[1]]
    return packed(vars(task) | {"vectors": vectors, "blocks": blocks})


def unpacked_task(message: bytes) -> RayTask:
    """The task in a message.

    Raises:
        ValueError: It is no message of a task.
    """
    fields = unpacked(message)
    try:
        if fields["vectors"] is not None:
            fields["vectors"] = Path(fields["vectors"])
        if fields["blocks"] is not None:
            file, n_blocks, n_bytes = fields["blocks"]
            fields["blocks"] = Path(file), (int(n_blocks), int(n_bytes))
        return RayTask(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no message of a task: {error}") from None


def packed_reply(reply: Reply) -> bytes:
    """The message for a reply.

    Raises:
        TypeError: The value of the function is neither a number nor an array of numbers.
    """
    return packed(vars(reply))


def unpacked_reply(message: bytes) -> Reply:
    """The reply in a message.

    Raises:
        ValueError: It is no message of a reply.
    """
    try:
        return Reply(**unpacked(message))
    except TypeError as error:
        raise ValueError(f"no message of a reply: {error}") from None


def from_this_user(connection: Connection) -> bool:
    """Whether the process at the other end of a local socket runs as this user, where the system tells it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # only this user can enter the folder of the socket
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.geteuid())
