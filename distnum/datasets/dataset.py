"""Data sets, and the batch of every step.

A data set is four arrays. It comes with the package (``mnist-10k``), from a folder of the
four standard IDX files, from an ``.npz``, or from arrays in Python. Files are read without
executing anything in them, and what a header says is checked against the file first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.errors import InputError
from distnum.common.randomness import Purpose, random_generator

__all__ = ["Batch", "Dataset", "arrays_sha256", "as_inputs", "batch_at", "batch_of_rows"]

_LARGEST_LABEL = 65535


class Batch(NamedTuple):
    """Some examples: ``x`` of shape ``(n, n_inputs)`` and their targets ``y``."""

    x: NDArray[np.floating]
    y: NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and examples to test on.

    Args:
        x_train, x_test: one example a row, any shape; numbers. Bytes (``uint8``) are taken
            as pixels and divided by 255 when they are used, other numbers are taken as
            they are.
        y_train, y_test: labels ``0, 1, ...`` of shape ``(n,)``, or real targets
            ``(n, n_outputs)``.
        name: for people.

    Raises:
        InputError: the arrays do not fit together, or hold what cannot be used.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.generic]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.generic]
    name: str = "arrays"

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = (
                _as_array(getattr(self, f"x_{split}"), f"x_{split}"),
                _as_array(getattr(self, f"y_{split}"), f"y_{split}"),
            )
            x, y = _checked_examples(x, f"x_{split}", self.name), _checked_targets(y, f"y_{split}", self.name)
            if len(x) != len(y):
                raise InputError(
                    f"{self.name}: x_{split} has {len(x):,} rows but y_{split} has {len(y):,}; they must match."
                )
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: x_train has examples of shape {self.x_train.shape[1:]}, x_test of "
                f"{self.x_test.shape[1:]}; they must be the same."
            )
        if self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise InputError(
                f"{self.name}: y_train has targets of shape {self.y_train.shape[1:]}, y_test of "
                f"{self.y_test.shape[1:]}; they must be the same."
            )

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example as it came: ``(28, 28)`` for digits."""
        return tuple(int(n) for n in self.x_train.shape[1:])

    @property
    def n_inputs(self) -> int:
        return int(np.prod(self.example_shape))

    @property
    def has_labels(self) -> bool:
        """Whether the targets are labels, not real numbers."""
        return self.y_train.ndim == 1

    @cached_property
    def n_outputs(self) -> int:
        """How many classes there are, or how many real targets an example has."""
        if not self.has_labels:
            return int(self.y_train.shape[1])
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the four arrays: their dtypes, shapes and bytes."""
        return arrays_sha256(self.x_train, self.y_train, self.x_test, self.y_test)

    def train(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Training examples, flat and scaled."""
        return Batch(as_inputs(self.x_train[rows], dtype), self.y_train[rows])

    def test(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Test examples, flat and scaled."""
        return Batch(as_inputs(self.x_test[rows], dtype), self.y_test[rows])


def arrays_sha256(*arrays: Any) -> str:
    """SHA-256 over arrays: their dtypes, shapes and bytes; Python objects in them are not looked into."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        if not array.dtype.hasobject:
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _as_array(value: Any, field: str) -> NDArray[np.generic]:
    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"{field} has rows of different lengths; it must be one array.") from None


def as_inputs(x: NDArray[np.generic], dtype: DTypeLike) -> NDArray[np.floating]:
    """Examples as a network takes them: flat rows, bytes scaled to 0 ... 1."""
    flat = x.reshape(len(x), -1)
    if flat.dtype == np.uint8:
        return flat.astype(dtype) / np.dtype(dtype).type(255)
    return flat.astype(dtype)


def _checked_examples(x: NDArray[np.generic], field: str, name: str) -> NDArray[np.generic]:
    if x.ndim < 2 or x.size == 0:
        raise InputError(f"{name}: {field} has shape {x.shape}; it must have a row for each example, at least one.")
    if x.dtype.kind not in "uif":
        raise InputError(f"{name}: {field} has dtype {x.dtype}; it must hold real numbers.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0][0])
        raise InputError(f"{name}: {field} holds a number that is not finite, in row {row}; all must be finite.")
    return x


def _checked_targets(y: NDArray[np.generic], field: str, name: str) -> NDArray[np.generic]:
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "ui":
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "uif" and y.size:
        if not np.isfinite(y).all():
            raise InputError(f"{name}: {field} holds a target that is not finite; all must be finite.")
        return y
    if y.ndim != 1 or not y.size:
        raise InputError(f"{name}: {field} has shape {y.shape}; it must be (n,) labels or (n, n_outputs) targets.")
    whole = y.dtype.kind in "ui" or (y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.floor(y)).all())
    if not whole:
        raise InputError(f"{name}: {field} has dtype {y.dtype}; labels must be whole numbers 0, 1, 2, ...")
    if y.min() < 0 or y.max() > _LARGEST_LABEL:
        wrong = y.min() if y.min() < 0 else y.max()
        raise InputError(f"{name}: {field} holds the label {wrong}; labels must be from 0 to {_LARGEST_LABEL}.")
    return y.astype(np.int64) if y.dtype.kind == "f" else y


def batch_at(dataset: Dataset, seed: int, batch_size: int, dtype: DTypeLike, step: int) -> Batch:
    """The batch of a step: a pure function of its arguments.

    ``batch_size`` different training examples drawn at random, independently for each step.
    """
    return dataset.train(_rows_at(len(dataset.x_train), seed, batch_size, step), dtype)


def batch_of_rows(arrays: Any, seed: int, batch_size: int, step: int) -> Any:
    """The batch of a step from an array, or a tuple of arrays of one length: the same rows of each."""
    first = arrays[0] if isinstance(arrays, tuple) else arrays
    rows = _rows_at(len(first), seed, batch_size, step)
    return tuple(array[rows] for array in arrays) if isinstance(arrays, tuple) else arrays[rows]


def _rows_at(n_rows: int, seed: int, batch_size: int, step: int) -> NDArray[np.int64]:
    return random_generator(seed, Purpose.BATCH, step).choice(n_rows, batch_size, replace=False)
