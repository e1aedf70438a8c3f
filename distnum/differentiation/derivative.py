"""The result of a differentiation: values, errors and a status for each entry, and every evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.differentiation.entries import Entries
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.record import EvaluationTable, Record
from distnum.evaluation.forms import Form
from distnum.evaluation.outcomes import Failure
from distnum.evaluation.values import ValueForm

__all__ = ["Derivative", "FailedPoint"]


class FailedPoint(NamedTuple):
    """A point at which the function could not be evaluated.

    Attributes:
        name: Name of the coordinate that was moved, such as ``"x[3]"``; "" at ``x`` itself.
        offset: By how much it was moved.
        failure: Why there is no value.
    """

    name: str
    offset: float
    failure: Failure


@dataclass(frozen=True, repr=False)
class Derivative:
    """A derivative with all that is known about it.

    ``jac``, ``error``, ``h`` and ``status`` have one entry for each pair of an output and a coordinate: arrays of shape
    ``f.shape + x.shape``, or such arrays by name where ``f`` or ``x`` is a dict. For a function that returns one number
    that is the form of ``x``.

    Attributes:
        value: The function's value at ``x``.
        failures: Points at which the function could not be evaluated.
        n_evals: Evaluations made for this result, failed ones included.
        n_cached: Evaluations that were found in the store instead.
        n_retried: Further attempts after failures.
        evaluation_seconds: Seconds of all evaluations, summed over the workers.
        seconds: How long all took.
        success: Whether every entry is known: ``OK``, ``ONE_SIDED``, or ``UNCHANGED`` while others change.
        message: One line: what is to be known about the entries.
        form, value_form: Forms of the argument and of the value.
        entries: All entries as flat arrays.
        record: The record of evaluations; None if it was not kept.
    """

    value: Any
    failures: list[FailedPoint]
    n_evals: int
    n_cached: int
    n_retried: int
    evaluation_seconds: float
    seconds: float
    success: bool
    message: str
    form: Form
    value_form: ValueForm
    entries: Entries
    record: Record | None

    @cached_property
    def jac(self) -> Any:
        """The derivative: shape ``f.shape + x.shape``, or by name."""
        return self._view(self.entries.derivative)

    @cached_property
    def grad(self) -> Any:
        """The gradient of a function of one number, in the form of ``x``; else the same as ``jac``."""
        return self.form.view(self.entries.gradient()) if self.value_form.size == 1 else self.jac

    @cached_property
    def error(self) -> Any:
        """Estimate of the absolute error of each entry; NaN where there is none, as at kinks."""
        return self._view(_kept(self.entries.error))

    @cached_property
    def h(self) -> Any:
        """The step that was taken for each entry."""
        return self._view(_kept(self.entries.h))

    @cached_property
    def status(self) -> Any:
        """The ``Status`` of each entry, as numbers."""
        return self._view(self.entries.status)

    @cached_property
    def slopes(self) -> Any:
        """Derivatives to the left and to the right of entries with a kink, as a pair; NaN elsewhere."""
        left, right = self.entries.two_sides()
        return self._view(left), self._view(right)

    def evaluations(self) -> EvaluationTable:
        """All evaluations, with coordinate, offset, value, seconds, node, attempt and status."""
        return _kept(self.record).table()

    def _view(self, entries: NDArray[Any]) -> Any:
        return self.entries.view(entries, self.form, self.value_form)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.inexact]:
        jac = self.jac.toarray() if hasattr(self.jac, "toarray") else self.jac
        return np.array(jac, dtype=dtype)

    def __repr__(self) -> str:
        m, n = self.value_form.size, self.form.size
        counts = np.bincount(self.entries.status.ravel(), minlength=len(Status))
        statuses = ", ".join(f"{counts[status]:,} {status.name}" for status in Status if counts[status])
        outputs = f"{m:,} output" + "s" * (m != 1)
        coordinates = f"{n:,} coordinate" + "s" * (n != 1)
        lines = [f"Derivative of {outputs} by {coordinates}: {statuses}"]
        with np.printoptions(threshold=10, edgeitems=3, precision=8):
            jac = self.jac
            stored = f"csr_array of shape {jac.shape} with {jac.nnz:,} entries" if hasattr(jac, "nnz") else str(jac)
            lines.append(f"  jac: {stored[:300]}")
        evaluations = f"  {self.n_evals:,} evaluations"
        if self.n_cached:
            evaluations += f" and {self.n_cached:,} from the store"
        lines.append(f"{evaluations} in {self.seconds:.3g} s")
        lines.append(f"  {self.message}")
        return "\n".join(lines)


def _kept(thing: Any) -> Any:
    if thing is None:
        raise InputError("that was not kept, as values alone were asked for; use differentiate.")
    return thing
