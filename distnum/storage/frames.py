"""Records in a file that only grows: each with its length and a checksum, so that damage is skipped.

A record is 8 bytes that mark its begin, 8 bytes of length, a checksum of 16 bytes over length and content, and the
content. After damage, the next record is found by its mark.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import BinaryIO

__all__ = ["framed", "frames", "read_frame"]

_MARK = b"\xd1EVAL1\r\n"
_HEAD = struct.Struct("<8sQ16s")
_SEARCHED_BYTES = 1 << 20
# Marks may also be within records. Searching for the next record reads at most this many times the size of the file.
_MOST_READ = 16


def framed(content: bytes) -> bytes:
    """Return a record with this content."""
    return _HEAD.pack(_MARK, len(content), _checksum(content)) + content


def read_frame(file: BinaryIO, position: int) -> bytes | None:
    """Return the content of the record at a position of a file; None if there is no whole and undamaged record.

    Raises:
        OSError: The file cannot be read.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(position)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack(head)
    if mark != _MARK or length > size - position - _HEAD.size:
        return None
    content = file.read(length)
    return content if _checksum(content) == checksum else None


def frames(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield the position and the content of each record of a file.

    Where bytes are damaged or cut short, yield their position and None, and go on with the next undamaged record.

    Raises:
        OSError: The file cannot be read.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    position, left, skipping = 0, _MOST_READ * size, False
    while position < size:
        content = read_frame(file, position)
        if content is not None or not skipping:
            yield position, content
        skipping = content is None
        if content is not None:
            position += _HEAD.size + len(content)
            continue
        file.seek(position + len(_MARK))
        length = int.from_bytes(file.read(8), "little")
        left -= length if length <= size - position else 0
        position = _next_mark(file, position + 1) if left > 0 else size


def _next_mark(file: BinaryIO, position: int) -> int:
    """Return the position of the next mark, or the size of the file."""
    while True:
        file.seek(position)
        part = file.read(_SEARCHED_BYTES)
        found = part.find(_MARK)
        if found >= 0:
            return position + found
        if len(part) < _SEARCHED_BYTES:
            return position + len(part)
        position += len(part) - len(_MARK) + 1


def _checksum(content: bytes) -> bytes:
    state = blake2b(len(content).to_bytes(8, "little"), digest_size=16)
    state.update(content)
    return state.digest()
