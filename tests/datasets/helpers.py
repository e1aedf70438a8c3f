"""Helpers of the tests of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distnum import InputError


def small_arrays() -> dict[str, NDArray[Any]]:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 4, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2], np.uint8)
    return {"x_train": pixels[:6], "y_train": labels[:6], "x_test": pixels[6:], "y_test": labels[6:]}


def refusal(call: Callable[[], object]) -> str:
    """The message of the InputError; nothing of the failed call outlives this."""
    try:
        call()
    except InputError as error:
        return str(error)
    pytest.fail("not refused")


class Unpickled:
    """An object whose pickle creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def with_nan(shape: tuple[int, ...], value: float = np.nan) -> NDArray[Any]:
    array = np.zeros(shape)
    array[-1] = value
    return array
