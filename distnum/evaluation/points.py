"""Points at which a function is evaluated: each is a base point with some entries replaced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array

__all__ = ["Points"]


@dataclass(frozen=True)
class Points:
    """Points near a base point, in the flat form of the function's argument.

    Point ``p`` is ``base`` with ``base[entries[s]] = values[s]`` for ``s`` from ``starts[p]`` to ``starts[p + 1]``;
    the base point itself replaces nothing.

    Attributes:
        base: The base point, shape ``(n,)``, float32 or float64.
        entries: Indices of the replaced entries, point after point, shape ``(n_replaced,)``.
        values: Their values, shape ``(n_replaced,)``, in the dtype of ``base``, or complex for the complex step.
        starts: Boundaries of the points in ``entries``, shape ``(n_points + 1,)``.
    """

    base: Array
    entries: NDArray[np.int64]
    values: NDArray[np.inexact]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def moved(cls, base: Array, indices: NDArray[np.int64], values: NDArray[np.inexact]) -> Points:
        """Points that each replace one entry."""
        return cls(base, indices, values, np.arange(len(indices) + 1))

    @classmethod
    def of_vectors(cls, base: Array, vectors: NDArray[np.inexact]) -> Points:
        """Points given in full, shape ``(n_points, n)``."""
        n_points, n = vectors.shape
        return cls(base, np.tile(np.arange(n), n_points), vectors.ravel(), np.arange(n_points + 1) * n)

    @classmethod
    def joined(cls, parts: list[Points]) -> Points:
        """The points of several parts with the same base, one part after the other."""
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        values = np.concatenate([part.values for part in parts])
        return cls(parts[0].base, np.concatenate([part.entries for part in parts]), values, starts)

    def take(self, numbers: NDArray[np.int64]) -> Points:
        """The points of these numbers."""
        lengths = self.starts[numbers + 1] - self.starts[numbers]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(starts[-1]) + np.repeat(self.starts[numbers] - starts[:-1], lengths)
        return Points(self.base, self.entries[positions], self.values[positions], starts)

    def vector(self, number: int) -> NDArray[np.inexact]:
        """One point in full, shape ``(n,)``."""
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        vector = self.base.astype(np.result_type(self.base, self.values))
        vector[self.entries[part]] = self.values[part]
        return vector
