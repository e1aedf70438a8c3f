"""A process that reads damaged files for ``python -m tests.fuzz``."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

from tests.fuzz.fuzzing import Reader, fuzz
from tests.fuzz.kinds import kinds

__all__ = ["prepare", "read"]

_folder = Path()
_kinds: dict[str, Reader] = {}


def prepare(folder: str) -> None:
    """Make the kinds, in a new process."""
    global _folder, _kinds
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing")
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints its remarks there
    _folder = Path(tempfile.mkdtemp(dir=folder))
    _kinds = kinds(_folder)


def read(name: str, seed: int, first: int, n_inputs: int) -> tuple[int, float]:
    started = time.monotonic()
    fuzz(name, _kinds[name], n_inputs, _folder, seed, first)
    return n_inputs, time.monotonic() - started
