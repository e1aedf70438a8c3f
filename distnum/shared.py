"""Parameters and gradients in a file that all processes of a machine map into their memory."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

__all__ = ["Board", "Shared"]

Array = NDArray[np.floating]

# A larger file would be written to the disk now and then.
_MOST_BYTES = 32_000_000
_N_PLACES = 4
# Kinds of processors that show writes to others in the order in which they were made.
_ORDERED = ("x86_64", "AMD64")
_LOOK_S = 1e-4


class Shared:
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
        self._places = np.asarray(whole)

    @classmethod
    def create(cls, folder: Path | None, dtype: np.dtype[Any], n_params: int) -> Shared | None:
        """A new file in a folder; None where there is no folder, no room, or the file would be too large for this."""
        n_bytes = _N_PLACES * dtype.itemsize * n_params
        if folder is None or n_bytes > _MOST_BYTES:
            return None
        file = folder / f"shared-{uuid4().hex}"
        return cls(file, dtype, n_params) if _reserve(file, n_bytes) else None

    def params(self, turn: int) -> Array:
        """Where the parameters of a turn stand."""
        return self._places[turn % 2]

    def grad(self, turn: int) -> Array:
        """Where the gradient of a turn is put together."""
        return self._places[2 + turn % 2]

    def remove(self) -> None:
        """Remove the file; who has it open keeps it."""
        with contextlib.suppress(OSError):  # its folder may be gone
            self.file.unlink()


class Board:
    """Where workers of one machine put what they have found of a forward pass, for each other.

    A block of examples is found by whoever takes it first; its numbers are the same whoever that
    is. A worker that has taken one and does not come is not waited for. As in ``Shared`` there are
    two places, used in turn, and a new file where somebody is late.

    Nothing but the order in which memory is written and read guards the numbers, which holds on
    processors that keep it (x86); there is no board on others.

    Args:
        file: of ``create``.
        dtype: of the numbers.
        n_examples, n_numbers, n_blocks: of a batch; for each example; that the examples are cut into.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], n_examples: int, n_numbers: int, n_blocks: int) -> None:
        self.file = file
        self.shape = n_examples, n_numbers, n_blocks
        flags = np.memmap(file, np.int64, "r+", shape=(2, 2, n_blocks))
        numbers = np.memmap(file, dtype, "r+", offset=flags.nbytes, shape=(2, n_examples, n_numbers))
        self._flags, self._numbers = np.asarray(flags), np.asarray(numbers)

    @classmethod
    def create(
        cls, folder: Path | None, dtype: np.dtype[Any], n_examples: int, n_numbers: int, n_blocks: int
    ) -> Board | None:
        """A new file in a folder; None where there is no folder, no room, or no use in one."""
        n_bytes = 2 * n_examples * n_numbers * dtype.itemsize
        if folder is None or n_blocks < 2 or n_bytes > _MOST_BYTES or platform.machine() not in _ORDERED:
            return None
        file = folder / f"board-{uuid4().hex}"
        if not _reserve(file, 2 * 2 * n_blocks * 8 + n_bytes):
            return None
        return cls(file, dtype, n_examples, n_numbers, n_blocks)

    def take(self, turn: int, block: int) -> bool:
        """Take a block, unless somebody has; two may do so at the same moment, and find the same."""
        taken = self._flags[turn % 2, 0]
        if taken[block] == turn:
            return False
        taken[block] = turn
        return True

    def put(self, turn: int, block: int, examples: slice, numbers: Array) -> None:
        """Put what was found of a block: ``(n_examples, n_numbers)``."""
        self._numbers[turn % 2, examples] = numbers
        self._flags[turn % 2, 1, block] = turn

    def get(self, turn: int, block: int, examples: slice, until: float) -> Array | None:
        """What was found of a block, read-only; None if it has not come by then, on the clock of ``perf_counter``."""
        done = self._flags[turn % 2, 1]
        while done[block] != turn:
            if perf_counter() > until:
                return None
            sleep(_LOOK_S)
        return self._numbers[turn % 2, examples]

    def remove(self) -> None:
        """Remove the file; who has it open keeps it."""
        with contextlib.suppress(OSError):  # its folder may be gone
            self.file.unlink()


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
class Others:
    """Those who are at the same gradient on this machine, as one of them sees it.

    Attributes:
        board: theirs.
        turn: number of the gradient.
        rank: where among them this one is, from 0 to below 1.
    """

    board: Board
    turn: int
    rank: float

    def fits(self, n_examples: int) -> bool:
        """Whether the board is for batches of so many examples."""
        return self.board.shape[0] == n_examples
