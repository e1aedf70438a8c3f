"""Memory that all processes of a machine share: files that they map, for parameters, gradients and forward passes."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array

__all__ = ["Peers", "SharedBlocks", "SharedVectors", "_whole_lines"]

# Every half minute the system writes to the disk what has changed: no more than a disk hardly notices.
_MOST_BYTES = 128_000_000
_N_PLACES = 4

# Kinds of processors that show writes to others in the order in which they were made.
_ORDERED = ("x86_64", "AMD64")
_LOOK_S = 1e-4

# How long to wait for blocks that others have taken: so many times what one's own have taken, and seconds.
_PATIENCE_FACTOR, _PATIENCE_S = 0.5, 0.002
_LINE_BYTES = 64


class _File:
    """A file that goes with the session; ``file`` is its path."""

    file: Path

    def remove(self) -> None:
        """Remove the file; who has it open keeps it."""
        with contextlib.suppress(OSError):  # its folder may be gone
            self.file.unlink()


class SharedVectors(_File):
    """The file, with two places each for the parameters and the gradient, used in turn.

    Whoever is late for one turn meets nothing of the next one. Whoever is later than that has
    been given up, and a new file is used without it.

    Args:
        file: of ``create``.
        dtype, n_params: of the parameters.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], n_params: int) -> None:
        self.file = file
        whole = np.memmap(file, dtype, "r+", shape=(_N_PLACES, n_params))
        self._rows = np.asarray(whole)

    @classmethod
    def create(cls, folder: Path | None, dtype: np.dtype[Any], n_params: int) -> SharedVectors | None:
        """A new file in a folder; None where there is no folder, no room, or the file would be too large for this."""
        n_bytes = _N_PLACES * dtype.itemsize * n_params
        if folder is None or n_bytes > _MOST_BYTES:
            return None
        file = folder / f"shared-{uuid4().hex}"
        return cls(file, dtype, n_params) if _reserve(file, n_bytes) else None

    def params(self, turn: int) -> Array:
        """Where the parameters of a turn stand."""
        return self._rows[turn % 2]

    def grad(self, turn: int) -> Array:
        """Where the gradient of a turn is put together."""
        return self._rows[2 + turn % 2]


class SharedBlocks(_File):
    """Memory in which workers of one machine find something together, block by block.

    A block is found by whoever takes it first; its bits are the same whoever that is. A worker
    that has taken one and does not come is not waited for, and may come at any time: so whoever
    finds a block writes each of its numbers once, as it will stay. As in ``SharedVectors`` there are two
    places, used in turn, and a new file where somebody is late.

    Nothing but the order in which memory is written and read guards the numbers, which holds on
    processors that keep it (x86); there is no board on others.

    Args:
        file: of ``create``.
        n_blocks, n_bytes: that are found, and what they take.
    """

    def __init__(self, file: Path, n_blocks: int, n_bytes: int) -> None:
        self.file = file
        self.shape = n_blocks, n_bytes
        flags = np.memmap(file, np.int64, "r+", shape=(2, 2, n_blocks))
        memory = np.memmap(file, np.uint8, "r+", offset=_of_flags(n_blocks), shape=(2, n_bytes))
        self._flags, self._memory = np.asarray(flags), np.asarray(memory)

    @classmethod
    def create(cls, folder: Path | None, n_blocks: int, n_bytes: int) -> SharedBlocks | None:
        """A new file in a folder; None where there is no folder, no room, or no use in one."""
        if folder is None or n_blocks < 2 or 2 * n_bytes > _MOST_BYTES or platform.machine() not in _ORDERED:
            return None
        file = folder / f"board-{uuid4().hex}"
        return cls(file, n_blocks, n_bytes) if _reserve(file, _of_flags(n_blocks) + 2 * n_bytes) else None

    def memory(self, turn: int) -> NDArray[np.uint8]:
        """Where the blocks of a turn are put, shape ``(n_bytes,)``."""
        return self._memory[turn % 2]

    def take(self, turn: int, block: int) -> bool:
        """Take a block, unless somebody has; two may do so at the same moment, and find the same."""
        taken = self._flags[turn % 2, 0]
        if taken[block] == turn:
            return False
        taken[block] = turn
        return True

    def finish(self, turn: int, block: int) -> None:
        """Tell the others that a block is there."""
        self._flags[turn % 2, 1, block] = turn

    def wait(self, turn: int, block: int, until: float) -> bool:
        """Whether a block is there, at the latest then, on the clock of ``perf_counter``."""
        done = self._flags[turn % 2, 1]
        while done[block] != turn:
            if perf_counter() > until:
                return False
            sleep(_LOOK_S)
        return True


def _of_flags(n_blocks: int) -> int:
    """Bytes of a board's flags."""
    return _whole_lines(2 * 2 * n_blocks * 8)


def _whole_lines(n_bytes: int) -> int:
    """So many bytes, and those up to the end of the processor's line of memory."""
    return -(-n_bytes // _LINE_BYTES) * _LINE_BYTES


def _reserve(file: Path, n_bytes: int) -> bool:
    """Make a file of so many zeros; returns whether there is room for it.

    Without the room, a write into the mapped file would end the process.
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


@dataclass(frozen=True)
class Peers:
    """Those who are at the same gradient on this machine, as one of them sees it.

    Attributes:
        board: theirs.
        turn: number of the gradient.
        rank: where among them this one is, from 0 to below 1.
    """

    board: SharedBlocks
    turn: int
    rank: float

    def fits(self, n_blocks: int, n_bytes: int) -> bool:
        """Whether the board is for so much."""
        return self.board.shape == (n_blocks, n_bytes)

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Where what is found together is put."""
        return self.board.memory(self.turn)

    def find(self, n_blocks: int, find: Callable[[int], None]) -> None:
        """Find the blocks that nobody else does, and wait for those that others have taken."""
        first = int(self.rank * n_blocks)
        missing = []
        began = perf_counter()
        for block in [*range(first, n_blocks), *range(first)]:
            if self.board.take(self.turn, block):
                find(block)
                self.board.finish(self.turn, block)
            else:
                missing.append(block)
        # Who is not much slower than this one has its blocks by then.
        until = perf_counter() + _PATIENCE_FACTOR * (perf_counter() - began) + _PATIENCE_S
        for block in missing:
            if not self.board.wait(self.turn, block, until):
                find(block)
