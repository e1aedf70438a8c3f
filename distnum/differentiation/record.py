"""The record of all evaluations of a derivative, and the table that is made of it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.forms import Form
from distnum.evaluation.outcomes import Outcomes

__all__ = ["Evaluation", "EvaluationTable", "Record", "name_of_point"]

# Values are kept up to this many bytes in all; beyond, everything but the values.
_KEPT_BYTES = 256 * 2**20


def name_of_point(form: Form, coordinate: int) -> str:
    """Name of the moved coordinate; "" at the base point, ``"(direction)"`` or ``"(group 3)"`` if several are moved."""
    if coordinate >= 0:
        return form.entry_name(coordinate)
    return "" if coordinate == -1 else "(direction)" if coordinate == -2 else f"(group {-3 - coordinate})"


class Evaluation(NamedTuple):
    """One evaluation of the function, as a row of a table.

    Attributes:
        name: Name of the coordinate that was moved; "" at ``x`` itself.
        offset: By how much it was moved; complex for the complex step.
        value: The function's value: a number, or an array of shape ``(m,)``; NaN where it failed.
        seconds: How long it took.
        node: Name of the machine.
        attempt: Number of times that it was tried.
        status: ``"ok"``, ``"cached"`` or the kind of failure.
    """

    name: str
    offset: Any
    value: Any
    seconds: float
    node: str
    attempt: int
    status: str


class EvaluationTable(Sequence[Evaluation]):
    """The evaluations of a derivative, in the order in which they finished."""

    def __init__(self, rows: list[Evaluation]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...
    @overload
    def __getitem__(self, index: slice) -> EvaluationTable: ...
    def __getitem__(self, index: int | slice) -> Evaluation | EvaluationTable:
        return EvaluationTable(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self._rows)

    def to_csv(self, file: str | os.PathLike[str]) -> None:
        """Write the table as CSV; values of several numbers have a column each."""
        size = max((np.size(row.value) for row in self._rows), default=1)
        names = ["value"] if size == 1 else [f"value[{k}]" for k in range(size)]
        with open(file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", "offset", *names, "seconds", "node", "attempt", "status"])
            for row in self._rows:
                values = [repr(number) for number in np.broadcast_to(np.ravel(row.value), (size,)).tolist()]
                writer.writerow([row.name, repr(row.offset), *values, f"{row.seconds:.6g}", *row[4:]])

    def __repr__(self) -> str:
        lines = [f"{'coordinate':<20} {'offset':>12} {'value':>22} {'seconds':>9}  status"]
        for row in self._rows[:20]:
            value = f"{row.value:.15g}" if np.ndim(row.value) == 0 else f"{np.size(row.value)} numbers"
            lines.append(
                f"{row.name or '(x itself)':<20.20} {row.offset:>12.5g} {value:>22} {row.seconds:>9.3g}  {row.status}"
            )
        if len(self._rows) > 20:
            lines.append(f"... {len(self._rows) - 20:,} more")
        return "\n".join(lines)


class Record:
    """Keeps outcomes until a table is made of them.

    Args:
        form: Form of the function's argument.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.inexact], Outcomes]] = []
        self._n_bytes = 0

    def add(self, coordinates: NDArray[np.int64], offsets: NDArray[np.inexact], outcomes: Outcomes) -> None:
        """Add finished evaluations.

        Args:
            coordinates, offsets: Of all points of the round, shape ``(p,)``.
            outcomes: Some of them.
        """
        self._n_bytes += outcomes.values.nbytes
        if self._n_bytes > _KEPT_BYTES:
            outcomes = replace(outcomes, values=np.full((len(outcomes.numbers), 1), np.nan), form=None)
        self._parts.append((coordinates[outcomes.numbers], offsets[outcomes.numbers], outcomes))

    def table(self) -> EvaluationTable:
        """The evaluations, in the order in which they finished."""
        rows = []
        for coordinates, offsets, outcomes in self._parts:
            for position, number in enumerate(outcomes.numbers.tolist()):
                failure = outcomes.failures.get(number)
                value = outcomes.values[position] if outcomes.values.size else np.array([np.nan])
                rows.append(
                    Evaluation(
                        name_of_point(self._form, int(coordinates[position])),
                        offsets[position].item(),
                        value[0].item() if len(value) == 1 else value,
                        float(outcomes.seconds[position]),
                        outcomes.host,
                        failure.attempts if failure else 1 + outcomes.retried.get(number, 0),
                        failure.kind if failure else "cached" if outcomes.cached else "ok",
                    )
                )
        return EvaluationTable(rows)
