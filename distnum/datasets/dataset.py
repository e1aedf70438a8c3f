"""Data sets of four arrays, their checks, and the batch of each step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.errors import InputError
from distnum.common.randomness import Purpose, random_generator

__all__ = ["Batch", "Dataset", "arrays_sha256", "as_inputs", "batch_at", "batch_of_rows"]

_LARGEST_LABEL = 65535


class Batch(NamedTuple):
    """Examples and their targets.

    Attributes:
        x: Inputs, shape ``(n, n_inputs)``.
        y: Labels, shape ``(n,)``, or real targets, shape ``(n, n_outputs)``.
    """

    x: NDArray[np.floating]
    y: NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples.

    Args:
        x_train, x_test: Real numbers, shape ``(n, ...)`` with one example in each row. Bytes (``uint8``) are pixels
            and are divided by 255 before use; other numbers are used as they are.
        y_train, y_test: Labels ``0, 1, ...``, shape ``(n,)``, or real targets, shape ``(n, n_outputs)``.
        name: A name for messages.

    Raises:
        InputError: The arrays do not fit together, or hold values that cannot be used.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.generic]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.generic]
    name: str = "arrays"

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = (_as_array(getattr(self, field), field) for field in (f"x_{split}", f"y_{split}"))
            x, y = _checked_examples(x, f"x_{split}", self.name), _checked_targets(y, f"y_{split}", self.name)
            if len(x) != len(y):
                raise InputError(
                    f"{self.name}: x_{split} has {len(x):,} rows but y_{split} has {len(y):,}; they must match."
                )
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        pairs = (("x", "examples", self.x_train, self.x_test), ("y", "targets", self.y_train, self.y_test))
        for field, rows, train, test in pairs:
            if train.shape[1:] != test.shape[1:]:
                raise InputError(
                    f"{self.name}: {field}_train has {rows} of shape {train.shape[1:]}, {field}_test of "
                    f"{test.shape[1:]}; they must be the same."
                )

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example in the data, such as ``(28, 28)`` for a picture."""
        return self.x_train.shape[1:]

    @property
    def n_inputs(self) -> int:
        """Number of values in an example."""
        return prod(self.example_shape)

    @property
    def has_labels(self) -> bool:
        """Whether the targets are labels rather than real numbers."""
        return self.y_train.ndim == 1

    @cached_property
    def n_outputs(self) -> int:
        """Number of classes, or of real targets of an example."""
        if not self.has_labels:
            return self.y_train.shape[1]
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the four arrays' dtypes, shapes and bytes."""
        return arrays_sha256(self.x_train, self.y_train, self.x_test, self.y_test)

    def train(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Return training examples as rows of inputs, with pixels scaled to 0 ... 1."""
        return Batch(as_inputs(self.x_train[rows], dtype), self.y_train[rows])

    def test(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Return test examples as rows of inputs, with pixels scaled to 0 ... 1."""
        return Batch(as_inputs(self.x_test[rows], dtype), self.y_test[rows])


def arrays_sha256(*arrays: Any) -> str:
    """Return the SHA-256 of the arrays' dtypes, shapes and bytes; of arrays of Python objects without the bytes."""
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
    """Return examples as a network's inputs.

    Args:
        x: Examples, shape ``(n, ...)``.
        dtype: float32 or float64.

    Returns:
        The inputs, shape ``(n, n_inputs)``; bytes are scaled to 0 ... 1.
    """
    inputs = x.reshape(len(x), -1).astype(dtype)
    return inputs / 255 if x.dtype == np.uint8 else inputs


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
    """Return the batch of a step, a pure function of the arguments.

    It holds ``batch_size`` different training examples, drawn at random and independently of other steps.
    """
    return dataset.train(_rows_at(len(dataset.x_train), seed, batch_size, step), dtype)


def batch_of_rows(arrays: Any, seed: int, batch_size: int, step: int) -> Any:
    """Return the batch of a step from an array, or from each of a tuple of arrays the same rows.

    The arrays must have the same length. The rows are those of ``batch_at``.
    """
    first = arrays[0] if isinstance(arrays, tuple) else arrays
    rows = _rows_at(len(first), seed, batch_size, step)
    return tuple(array[rows] for array in arrays) if isinstance(arrays, tuple) else arrays[rows]


def _rows_at(n_rows: int, seed: int, batch_size: int, step: int) -> NDArray[np.int64]:
    return random_generator(seed, Purpose.BATCH, step).choice(n_rows, batch_size, replace=False)
