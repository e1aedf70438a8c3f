"""Memory shared by the processes of one machine: mapped files for parameters, answers and blocks of work."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array

__all__ = ["BlockPeers", "SharedBlocks", "SharedFiles", "SharedVectors"]

# The system writes changed pages to the disk every half minute; this many bytes hardly matter.
_MOST_BYTES = 128_000_000
# Processors on which other cores see writes in the order in which they were made.
_ORDERED = ("x86_64", "AMD64")
_LOOK_S = 1e-4
# A block taken by a peer is waited for at most this factor times the time of one's own blocks, plus seconds.
_PATIENCE_FACTOR, _PATIENCE_S = 0.5, 0.002
_CACHE_LINE_BYTES = 64


class _File:
    """A file that is removed with the session; ``file`` is its path."""

    file: Path

    def remove(self) -> None:
        """Remove the file; processes that have mapped it keep their mapping."""
        with contextlib.suppress(OSError):  # its folder may be gone
            self.file.unlink()


class SharedVectors(_File):
    """Parameters and answers, in two buffers each that alternate from turn to turn.

    A worker that is one turn late cannot overwrite the next turn. One that is later has been
    given up, and a new file is used without it.

    Args:
        file: File made by ``create``.
        dtype: Dtype of the parameters and answers.
        n_params: Number of parameters.
        answers_shape: Shape of the array of all answers.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], n_params: int, answers_shape: tuple[int, ...]) -> None:
        self.file = file
        n_answers = prod(answers_shape)
        buffers = np.asarray(np.memmap(file, dtype, "r+", shape=(2 * (n_params + n_answers),)))
        self._params = buffers[: 2 * n_params].reshape(2, n_params)
        self._answers = buffers[2 * n_params :].reshape(2, *answers_shape)

    @classmethod
    def create(
        cls, folder: Path | None, dtype: np.dtype[Any], n_params: int, answers_shape: tuple[int, ...]
    ) -> SharedVectors | None:
        """Make a new file in a folder; return None without a folder or room, or if the file would be too large."""
        n_bytes = 2 * dtype.itemsize * (n_params + prod(answers_shape))
        if folder is None or n_bytes > _MOST_BYTES:
            return None
        file = folder / f"vectors-{uuid4().hex}"
        return cls(file, dtype, n_params, answers_shape) if _reserve(file, n_bytes) else None

    def params(self, turn: int) -> Array:
        """Parameters of a turn, shape ``(n_params,)``."""
        return self._params[turn % 2]

    def answers(self, turn: int) -> Array:
        """Answers of a turn."""
        return self._answers[turn % 2]


class SharedBlocks(_File):
    """Memory in which the workers of one machine compute the blocks of something together.

    The worker that takes a block first computes it; every worker would compute the same bits. Peers
    do not wait for a worker that has taken a block and does not finish it, and that worker may
    write at any later time, so every number of a block is written once, with its final value. As in
    ``SharedVectors`` there are two buffers, and a new file is made when a worker is late.

    Only the order of memory accesses protects the numbers. x86 processors keep that order; on
    others ``create`` returns None.

    Args:
        file: File made by ``create``.
        n_blocks: Number of blocks.
        n_bytes: Bytes of all blocks.
    """

    def __init__(self, file: Path, n_blocks: int, n_bytes: int) -> None:
        self.file = file
        self.shape = n_blocks, n_bytes
        flags = np.memmap(file, np.int64, "r+", shape=(2, 2, n_blocks))
        memory = np.memmap(file, np.uint8, "r+", offset=_flag_bytes(n_blocks), shape=(2, n_bytes))
        self._flags, self._memory = np.asarray(flags), np.asarray(memory)

    @classmethod
    def create(cls, folder: Path | None, n_blocks: int, n_bytes: int) -> SharedBlocks | None:
        """Make a new file in a folder; return None without a folder or room, or if sharing would not help."""
        if folder is None or n_blocks < 2 or 2 * n_bytes > _MOST_BYTES or platform.machine() not in _ORDERED:
            return None
        file = folder / f"blocks-{uuid4().hex}"
        return cls(file, n_blocks, n_bytes) if _reserve(file, _flag_bytes(n_blocks) + 2 * n_bytes) else None

    def memory(self, turn: int) -> NDArray[np.uint8]:
        """Memory for the blocks of a turn, shape ``(n_bytes,)``."""
        return self._memory[turn % 2]

    def take(self, turn: int, block: int) -> bool:
        """Take a block; return False if it is taken. Two workers at the same moment may both get it."""
        taken = self._flags[turn % 2, 0]
        if taken[block] == turn:
            return False
        taken[block] = turn
        return True

    def finish(self, turn: int, block: int) -> None:
        """Mark a block as finished."""
        self._flags[turn % 2, 1, block] = turn

    def wait(self, turn: int, block: int, until: float) -> bool:
        """Wait for a block until a time of ``perf_counter``; return whether it is finished."""
        done = self._flags[turn % 2, 1]
        while done[block] != turn:
            if perf_counter() > until:
                return False
            sleep(_LOOK_S)
        return True


@dataclass(frozen=True)
class BlockPeers:
    """One worker's view of the workers that share a ``SharedBlocks`` in one turn; see ``work.Peers``.

    Attributes:
        blocks: The shared blocks.
        turn: Number of the turn.
        rank: Position of this worker among its peers, at least 0 and below 1.
    """

    blocks: SharedBlocks
    turn: int
    rank: float

    def fits(self, n_blocks: int, n_bytes: int) -> bool:
        """Whether the memory was made for this number of blocks and bytes."""
        return self.blocks.shape == (n_blocks, n_bytes)

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Memory for the blocks of this turn, shape ``(n_bytes,)``."""
        return self.blocks.memory(self.turn)

    def compute(self, n_blocks: int, compute: Callable[[int], None]) -> None:
        """Call ``compute`` for the blocks that no peer computes, and for those that do not arrive in time."""
        first = int(self.rank * n_blocks)
        missing = []
        began = perf_counter()
        for block in [*range(first, n_blocks), *range(first)]:
            if self.blocks.take(self.turn, block):
                compute(block)
                self.blocks.finish(self.turn, block)
            else:
                missing.append(block)
        # By then a peer of similar speed has finished its blocks.
        until = perf_counter() + _PATIENCE_FACTOR * (perf_counter() - began) + _PATIENCE_S
        for block in missing:
            if not self.blocks.wait(self.turn, block, until):
                compute(block)


class SharedFiles:
    """The shared files of one pool.

    Args:
        folder: Folder for the files; None if workers may be on other machines, which share no files.
        dtype: Dtype of the parameters and answers.
        n_params: Number of parameters.
        answers_shape: Shape of the array of all answers.

    Attributes:
        vectors: Parameters and answers; None if they have to be sent.
        blocks: Blocks that workers compute together; None if there are none.
    """

    def __init__(
        self, folder: Path | None, dtype: np.dtype[Any], n_params: int, answers_shape: tuple[int, ...]
    ) -> None:
        self._folder = folder
        self._vectors_are = dtype, n_params, answers_shape
        self.vectors: SharedVectors | None = None
        self.blocks: SharedBlocks | None = None

    def renew(self, blocks_shape: tuple[int, int] | None) -> None:
        """Replace all files by new ones, with blocks of this number and size."""
        self.remove()
        self.vectors = SharedVectors.create(self._folder, *self._vectors_are)
        self.blocks = None if blocks_shape is None else SharedBlocks.create(self._folder, *blocks_shape)

    def remove(self) -> None:
        """Remove the files."""
        for file in (self.vectors, self.blocks):
            if file is not None:
                file.remove()


def _flag_bytes(n_blocks: int) -> int:
    """Bytes of the flags of ``SharedBlocks``, up to the end of a cache line."""
    return -(-2 * 2 * n_blocks * 8 // _CACHE_LINE_BYTES) * _CACHE_LINE_BYTES


def _reserve(file: Path, n_bytes: int) -> bool:
    """Make a file of zeros; return whether there is room for it.

    Writing into a mapped file without room on the disk would end the process.
    """
    try:
        with file.open("wb") as made:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(made.fileno(), 0, n_bytes)
            else:
                made.truncate(n_bytes)
    except OSError:
        file.unlink(missing_ok=True)
        return False
    return True
