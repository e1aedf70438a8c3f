"""Messages between the driver and its workers: numbers, texts and arrays, in a form that cannot execute code.

A message is the length of a JSON object, the object, and the bytes of the arrays that it names.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from distnum.workers.pool import Reply
from distnum.workers.worker import Task

__all__ = ["RayTask", "from_this_user", "packed_reply", "packed_task", "unpacked_reply", "unpacked_task"]

_LENGTH_BYTES = 4
# Types of array elements that may be sent: booleans, integers, real and complex numbers.
_DTYPE = re.compile("[<>|][biufc][0-9]{1,2}")


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


def packed_task(task: RayTask) -> bytes:
    """The message for a task."""
    vectors = None if task.vectors is None else str(task.vectors)
    blocks = None if task.blocks is None else [str(task.blocks[0]), *task.blocks[1]]
    return _packed(vars(task) | {"vectors": vectors, "blocks": blocks})


def unpacked_task(message: bytes) -> RayTask:
    """The task in a message.

    Raises:
        ValueError: It is no message of a task.
    """
    fields = _unpacked(message)
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
    return _packed(vars(reply))


def unpacked_reply(message: bytes) -> Reply:
    """The reply in a message.

    Raises:
        ValueError: It is no message of a reply.
    """
    try:
        return Reply(**_unpacked(message))
    except TypeError as error:
        raise ValueError(f"no message of a reply: {error}") from None


def _packed(fields: Mapping[str, Any]) -> bytes:
    header: dict[str, Any] = {}
    contents = []
    for name, value in fields.items():
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if not _DTYPE.fullmatch(array.dtype.str):
                raise TypeError(f"{name} is an array of {array.dtype}; it must be one of numbers")
            header[name] = {"dtype": array.dtype.str, "shape": array.shape}
            contents.append(array.tobytes())
        else:
            header[name] = value
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *contents])


def _unpacked(message: bytes) -> dict[str, Any]:
    begin = _LENGTH_BYTES + int.from_bytes(message[:_LENGTH_BYTES], "little")
    try:
        fields = json.loads(message[_LENGTH_BYTES:begin])
    except RecursionError:
        raise ValueError("no message: it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("no message: it holds no object")
    for name, value in fields.items():
        if isinstance(value, dict):
            try:
                if not _DTYPE.fullmatch(value["dtype"]):  # NumPy would evaluate other texts
                    raise ValueError(f"no message: {name} is an array of {value['dtype']}")
                dtype, shape = np.dtype(value["dtype"]), tuple(map(int, value["shape"]))
            except (KeyError, TypeError) as error:
                raise ValueError(f"no message: {name} is no array: {error}") from None
            end = begin + dtype.itemsize * prod(shape)
            # A copy, as the bytes cannot be written. A scalar of NumPy is an array without dimensions.
            fields[name] = np.frombuffer(message[begin:end], dtype).reshape(shape).copy()[()]
            begin = end
    if begin != len(message):
        raise ValueError("no message: its length is wrong")
    return fields


def from_this_user(connection: Connection) -> bool:
    """Whether the process at the other end of a local socket runs as this user, where the system tells it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # only this user can enter the folder of the socket
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.geteuid())
