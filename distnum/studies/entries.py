"""The entries of a derivative as a list, each with the names of its output and its coordinate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.derivative import Derivative
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.sparse.entries import SparseEntries

__all__ = ["STATUS_NAMES", "Entry", "Listed"]

STATUS_NAMES = np.array([Status(number).name for number in range(len(Status))])
"""Names of the statuses, by their numbers."""


class Entry(NamedTuple):
    """An entry of a derivative, with the names of its output and its coordinate."""

    output: str
    coordinate: str
    derivative: Any
    error: float
    h: float
    status: str


class Listed:
    """The entries of some coordinates: output by output, or in the order of a sparsity pattern.

    Args:
        derivative: The derivative.
        chosen: The coordinates, as flat indices.

    Attributes:
        derivative, error, h, status: Of all entries, shape ``(n,)``.
    """

    def __init__(self, derivative: Derivative, chosen: NDArray[np.int64]) -> None:
        entries = derivative.entries
        assert entries.error is not None
        assert entries.h is not None
        self._of, self._chosen = derivative, chosen
        self._columns: NDArray[np.int64] | None = None
        if isinstance(entries, SparseEntries):
            columns = np.repeat(np.arange(len(entries.sparsity.starts) - 1), np.diff(entries.sparsity.starts))
            wanted = np.isin(columns, chosen)
            self._rows, self._columns = entries.sparsity.outputs[wanted], columns[wanted]
            parts: list[NDArray[Any]] = [
                part[wanted] for part in (entries.derivative, entries.error, entries.h, entries.status)
            ]
        else:
            whole = len(chosen) == derivative.form.size
            parts = [
                (part if whole else part[:, chosen]).ravel()
                for part in (entries.derivative, entries.error, entries.h, entries.status)
            ]
        self.derivative: NDArray[Any] = parts[0]
        self.error: NDArray[Any] = parts[1]
        self.h: NDArray[Any] = parts[2]
        self.status: NDArray[Any] = parts[3]

    def __len__(self) -> int:
        return len(self.status)

    @property
    def is_sparse(self) -> bool:
        """Whether these are the entries of a sparsity pattern."""
        return self._columns is not None

    def places(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the outputs and the coordinates of entries, as flat indices."""
        if self._columns is not None:
            return self._rows[positions], self._columns[positions]
        return positions // len(self._chosen), self._chosen[positions % len(self._chosen)]

    def named(self, positions: NDArray[np.int64]) -> Iterator[Entry]:
        """Yield entries with their names."""
        output_name, coordinate_name = cache(self._of.value_form.entry_name), cache(self._of.form.entry_name)
        pairs: Iterable[tuple[int, int]] = zip(*(part.tolist() for part in self.places(positions)), strict=True)
        for position, (output, coordinate) in zip(positions.tolist(), pairs, strict=True):
            yield Entry(
                output_name(output),
                coordinate_name(coordinate),
                self.derivative.item(position),
                self.error.item(position),
                self.h.item(position),
                STATUS_NAMES.item(self.status.item(position)),
            )

    def worst_first(self, most: int) -> NDArray[np.int64]:
        """Return the positions of ``most`` entries: those not settled, by relative error, then the first ones."""
        settled = np.isin(self.status, (Status.OK, Status.ONE_SIDED))
        unsettled = np.flatnonzero(~settled)
        with np.errstate(all="ignore"):
            relative = self.error[unsettled] / np.maximum(np.abs(self.derivative[unsettled]), 1e-300)
        order = np.argsort(-np.nan_to_num(relative, nan=np.inf), kind="stable")
        first = np.flatnonzero(settled[: most + len(unsettled)])
        return np.concatenate([unsettled[order], first])[:most]
