"""Parameters and gradients in a file that all processes of a machine map into their memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shared"]

Array = NDArray[np.floating]

# A larger file would be written to the disk now and then.
_MOST_BYTES = 32_000_000
_N_PLACES = 4


class Shared:
    """The file, with two places each for the parameters and the gradient, used in turn.

    Whoever is late for one turn meets nothing of the next one. Whoever is later than that has
    been given up, and a new file is used without it.

    Args:
        file: of ``create``.
        dtype, n_params: of the parameters.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], n_params: int, new: bool = False) -> None:
        self.file = file
        whole = np.memmap(file, dtype, "w+" if new else "r+", shape=(_N_PLACES, n_params))
        self._places = np.asarray(whole)

    @classmethod
    def create(cls, folder: Path | None, dtype: np.dtype[Any], n_params: int) -> Shared | None:
        """A new file in a folder; None where there is no folder, or the file would be too large for this."""
        if folder is None or _N_PLACES * dtype.itemsize * n_params > _MOST_BYTES:
            return None
        return cls(folder / f"shared-{uuid4().hex}", dtype, n_params, new=True)

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
