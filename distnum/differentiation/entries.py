"""The entries of a derivative, outputs by coordinates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.judgment.judging import Verdict
from distnum.differentiation.judgment.status import SETTLED, Status
from distnum.evaluation.forms import Form
from distnum.evaluation.values import ValueForm

__all__ = ["Entries", "Notable"]


class Notable(NamedTuple):
    """The worst entry of a coordinate with a status.

    Attributes:
        output: The output.
        derivative, error, h: What is known about the entry.
        better_h: The step that a search would take; NaN if unknown.
    """

    output: int
    derivative: complex
    error: float
    h: float
    better_h: float


class Entries:
    """Arrays of all entries, ``m`` outputs by ``n`` coordinates.

    Attributes:
        derivative: Derivatives, shape ``(m, n)``; NaN where there are none.
        status: Numbers of ``Status``, shape ``(m, n)``.
        error: Estimates of the errors, shape ``(m, n)``; None if they are not kept.
        h: Steps, shape ``(m, n)``; None if they are not kept.
        notable: The worst entry of each status that is not settled, by coordinate and status.
        slopes: Derivatives to the left and to the right of entries with a kink, by output and coordinate.
    """

    def __init__(self, m: int, n: int, full: bool) -> None:
        self.derivative: NDArray[np.inexact] = np.full((m, n), np.nan)
        self.status = np.full((m, n), Status.MISSING, np.uint8)
        self.error = np.full((m, n), np.nan) if full else None
        self.h = np.full((m, n), np.nan) if full else None
        self.notable: dict[tuple[int, Status], Notable] = {}
        self.slopes: dict[tuple[int, int], tuple[float, float]] = {}

    def put(
        self, coordinates: NDArray[np.int64], verdict: Verdict, better_h: NDArray[np.float64] | None = None
    ) -> None:
        """Write the entries of some coordinates, in place of what was there.

        Args:
            coordinates: Shape ``(c,)``.
            verdict: What is known about them.
            better_h: Steps that would be better, shape ``(c, m)``.
        """
        if np.iscomplexobj(verdict.derivative) and not np.iscomplexobj(self.derivative):
            self.derivative = self.derivative.astype(np.complex128)
        self._write(coordinates, verdict)
        unsettled = ~np.isin(verdict.status, SETTLED)
        for row in np.flatnonzero(unsettled.any(axis=1)).tolist():
            coordinate = int(coordinates[row])
            for kind in set(verdict.status[row, unsettled[row]].tolist()):
                error = np.where(verdict.status[row] == kind, np.nan_to_num(verdict.error[row], nan=0.0), -1.0)
                output = int(error.argmax())
                better = np.nan if better_h is None else float(better_h[row, output])
                self.notable[coordinate, Status(kind)] = Notable(
                    self.output_of(coordinate, output), verdict.derivative[row, output],
                    float(verdict.error[row, output]), float(verdict.h[row, output]), better,
                )  # fmt: skip

    def put_slopes(
        self, coordinates: NDArray[np.int64], kinked: NDArray[np.bool_], slopes: NDArray[np.inexact]
    ) -> None:
        """Keep the derivatives to the left and to the right of kinks.

        Args:
            coordinates: Shape ``(c,)``.
            kinked: Entries with a kink, shape ``(c, m)``.
            slopes: Derivatives on both sides, shape ``(2, c, m)``.
        """
        for row, output in zip(*np.nonzero(kinked), strict=True):
            coordinate = int(coordinates[row])
            key = self.output_of(coordinate, int(output)), coordinate
            self.slopes[key] = tuple(slopes[:, row, output].tolist())

    def _write(self, coordinates: NDArray[np.int64], verdict: Verdict) -> None:
        self.derivative[:, coordinates] = verdict.derivative.T + 0.0  # no negative zeros
        self.status[:, coordinates] = verdict.status.T
        if self.error is not None and self.h is not None:
            self.error[:, coordinates] = verdict.error.T
            self.h[:, coordinates] = verdict.h.T

    def output_of(self, coordinate: int, position: int) -> int:
        """The output of an entry of a coordinate in a verdict."""
        return position

    def statuses_of(self, coordinate: int) -> NDArray[np.uint8]:
        """The statuses of a coordinate, as a view."""
        return self.status[:, coordinate]

    def has(self, status: Status) -> bool:
        """Whether any entry has this status."""
        # Comparing takes a second array of the size of the statuses, which most derivatives do not need.
        return bool(np.count_nonzero(self.status)) and bool((self.status == status).any())

    def unchanged(self) -> NDArray[np.int64]:
        """The coordinates that change nothing."""
        if not self.has(Status.UNCHANGED):
            return np.empty(0, np.int64)
        return np.flatnonzero((self.status == Status.UNCHANGED).any(axis=0))

    def n_missing(self, coordinates: NDArray[np.int64]) -> int:
        """Number of coordinates with an entry that was not evaluated."""
        return int((self.status[:, coordinates] == Status.MISSING).any(axis=0).sum())

    def note_timeouts(self, coordinates: set[int]) -> None:
        """Tell failures of some coordinates, whose evaluations took too long, from others."""
        for coordinate in coordinates:
            statuses = self.statuses_of(coordinate)
            statuses[statuses == Status.FAILED] = Status.TIMEOUT
            worst = self.notable.pop((coordinate, Status.FAILED), None)
            if worst is not None:
                self.notable[coordinate, Status.TIMEOUT] = worst

    def narrow(self) -> None:
        """Turn the derivatives into single precision; if some are too large or too small for it, all stay."""
        exact = self.derivative
        with np.errstate(over="ignore", under="ignore"):
            narrow = exact.astype(np.complex64 if np.iscomplexobj(exact) else np.float32)
        if ((np.isfinite(narrow) == np.isfinite(exact)) & ((narrow == 0) == (exact == 0))).all():
            self.derivative = narrow

    def gradient(self) -> NDArray[np.inexact]:
        """The derivative of the only output, shape ``(n,)``."""
        return self.derivative[0]

    def view(self, array: NDArray[Any], form: Form, value_form: ValueForm) -> Any:
        """One of the arrays, of shape ``f.shape + x.shape``, or by name."""
        return value_form.jacobian(array, form)

    def two_sides(self) -> NDArray[np.float64]:
        """Derivatives to the left and to the right of kinks, shape ``(2, m, n)``; NaN elsewhere."""
        sides = np.full((2, *self.derivative.shape), np.nan)
        for (output, coordinate), slopes in self.slopes.items():
            sides[:, output, coordinate] = slopes
        return sides

    def forget(self, coordinates: NDArray[np.int64]) -> None:
        """Forget what is notable about some coordinates, which are judged anew."""
        if self.notable:
            old = set(coordinates.tolist())
            self.notable = {key: one for key, one in self.notable.items() if key[0] not in old}
