"""Helpers of several tests of storage."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.storage.checkpoints import State

IDENTITY = {"seed": 3, "data": "mnist-10k", "hidden": [4], "h": 1e-4}


def make_state(step: int = 7, dtype: str = "float64") -> State:
    params = np.random.default_rng(step).standard_normal(5).astype(dtype)
    return State(step, params, {"mean": params / 3, "square": params * params})


def assert_same_bits(state: State, expected: State) -> None:
    assert state.step == expected.step
    assert state.optimizer_state.keys() == expected.optimizer_state.keys()
    pairs = [(state.params, expected.params)]
    pairs += [(state.optimizer_state[name], array) for name, array in expected.optimizer_state.items()]
    for array, original in pairs:
        assert (array.dtype, array.shape, array.tobytes()) == (original.dtype, original.shape, original.tobytes())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: Any, **__: Any) -> None:
    """Stand in for a system call on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """Limit the size of this process's files, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def make_row(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "compute_s": 0.5, "dispatch_gather_s": 0.25, "update_s": 0.125}


@contextmanager
def deadline(seconds: int = 10) -> Iterator[None]:
    """Fail if the block takes longer, as where somebody waits for a named pipe."""

    def fail(*_: Any) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
