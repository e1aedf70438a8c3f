"""The entries of a derivative of which most are zero by a pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.entries import Entries
from distnum.differentiation.judgment.judging import Verdict
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.sparse.sparsity import Sparsity
from distnum.evaluation.forms import Form
from distnum.evaluation.values import ValueForm

__all__ = ["SparseEntries"]


class SparseEntries(Entries):
    """Arrays of the entries of a pattern, in its order, shape ``(n_entries,)``, in place of ``(m, n)``."""

    error: NDArray[np.float64]
    h: NDArray[np.float64]

    def __init__(self, sparsity: Sparsity) -> None:
        super().__init__(0, 0, full=True)
        n_entries = len(sparsity.outputs)
        self.sparsity = sparsity
        self.derivative = np.full(n_entries, np.nan)
        self.status: NDArray[np.uint8] = np.full(n_entries, Status.MISSING, np.uint8)
        self.error, self.h = np.full(n_entries, np.nan), np.full(n_entries, np.nan)

    def _write(self, coordinates: NDArray[np.int64], verdict: Verdict) -> None:
        entries = self.sparsity.entries(coordinates)
        self.derivative[entries] = verdict.derivative + 0.0  # no negative zeros
        self.status[entries] = verdict.status
        self.error[entries] = verdict.error
        self.h[entries] = verdict.h

    def output_of(self, coordinate: int, position: int) -> int:
        """The output of an entry of a coordinate in a verdict."""
        return int(self.sparsity.outputs[self.sparsity.starts[coordinate] + position])

    def statuses_of(self, coordinate: int) -> NDArray[np.uint8]:
        """The statuses of a coordinate, as a view."""
        return self.status[self.sparsity.starts[coordinate] : self.sparsity.starts[coordinate + 1]]

    def mark(self, outputs: NDArray[np.int64]) -> None:
        """Give the entries of outputs that depend on coordinates outside the pattern their status."""
        self.status[np.isin(self.sparsity.outputs, outputs)] = Status.PATTERN

    def unchanged(self) -> NDArray[np.int64]:
        """The coordinates that change nothing."""
        entries = np.flatnonzero(self.status == Status.UNCHANGED)
        return np.unique(np.searchsorted(self.sparsity.starts, entries, side="right") - 1)

    def n_missing(self, coordinates: NDArray[np.int64]) -> int:
        """Number of coordinates with an entry that was not evaluated."""
        return sum(bool((self.statuses_of(one) == Status.MISSING).any()) for one in coordinates.tolist())

    def gradient(self) -> NDArray[np.inexact]:
        """The derivative of the only output, shape ``(n,)``."""
        counts = np.diff(self.sparsity.starts)
        gradient = np.zeros(len(counts), self.derivative.dtype)
        gradient[counts > 0] = self.derivative
        return gradient

    def view(self, array: NDArray[Any], form: Form, value_form: ValueForm) -> Any:
        """One of the arrays as ``scipy.sparse.csr_array``, by name where ``f`` or ``x`` is not one array."""
        return self.sparsity.jacobian(array, value_form, form)

    def two_sides(self) -> NDArray[np.float64]:
        """Derivatives to the left and to the right of kinks, shape ``(2, n_entries)``; NaN elsewhere."""
        sides = np.full((2, len(self.derivative)), np.nan)
        for (output, coordinate), slopes in self.slopes.items():
            start, end = self.sparsity.starts[coordinate : coordinate + 2]
            sides[:, start + np.searchsorted(self.sparsity.outputs[start:end], output)] = slopes
        return sides
