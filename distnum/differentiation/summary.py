"""One line about a derivative: how many entries are not settled, and the worst of each kind by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.entries import Entries, Notable
from distnum.differentiation.judgment.status import Status
from distnum.evaluation.forms import Form
from distnum.evaluation.values import ValueForm

__all__ = ["NOT_ANALYTIC", "DerivativeWarning", "differing", "summary", "undefined", "unused"]

NOT_ANALYTIC = "{} changes the value, but not by an imaginary step: fun is not analytic there; take scheme 'central'."
"""About the name of a coordinate, with the complex step."""

# Largest number of coordinates or outputs that are named.
_MOST_NAMES = 3


class DerivativeWarning(UserWarning):
    """Some entries of a derivative are not settled; the message says how many, and names the worst."""


_MEANING = {
    Status.NOISE: "are lost in the noise of the function",
    Status.KINK: "have a kink within the step: the slopes on the two sides differ",
    Status.JUMP: "have a jump within the step",
    Status.STEP: "are wrong at the step that was given",
    Status.FAILED: "have no value, as the function failed or was not finite",
    Status.TIMEOUT: "have no value, as evaluations took longer than the time limit",
}


def summary(entries: Entries, form: Form, value_form: ValueForm) -> str:
    """What is to be known about the entries; "" if all of them are settled.

    Args:
        entries: The entries.
        form, value_form: Forms of the argument and of the value.
    """
    status = entries.status
    if not np.count_nonzero(status):  # all of them are OK
        return ""
    if ((status == Status.UNCHANGED) | (status == Status.MISSING)).all() and (status == Status.UNCHANGED).any():
        return (
            f"No coordinate changes the function's value near {form.what}: does it use its argument? A copy of "
            f"{form.what} is moved, so a function that reads the array elsewhere, such as lambda W: self.loss(x, y), "
            "does not see it."
        )
    parts = []
    for kind, meaning in _MEANING.items():
        chosen = status == kind
        if chosen.any():
            coordinate, worst = _worst(entries, kind)
            name = form.entry_name(coordinate)
            if value_form.size > 1:
                name = f"{value_form.entry_name(worst.output)} by {name}"
            details = _details(kind, worst, entries.slopes.get((worst.output, coordinate)))
            parts.append(f"{int(chosen.sum()):,} {kind.name}: {meaning}, worst {name}{details}")
    if not parts:
        return ""
    total = int((status != Status.MISSING).sum())
    return (
        f"{sum(int((status == kind).sum()) for kind in _MEANING):,} of {total:,} entries are not settled. "
        + "; ".join(parts)
        + "."
    )


def unused(entries: Entries, form: Form) -> str:
    """What is to be known about coordinates that change nothing, while others do; "" if there are none."""
    coordinates = entries.unchanged()
    if not len(coordinates):
        return ""
    return (
        f"{len(coordinates):,} of {form.size:,} coordinates do not change the function's value, and have a derivative "
        f"of zero: {_listed(coordinates, form)}."
    )


def undefined(base: NDArray[np.inexact], form: Form, value_form: ValueForm) -> str:
    """What is to be known about outputs that are not finite at ``x``; "" if there are none."""
    outputs = np.flatnonzero(~np.isfinite(base))
    if not len(outputs):
        return ""
    return (
        f"The function is not finite at {form.what} itself in {len(outputs):,} of {len(base):,} outputs: "
        f"{_listed(outputs, value_form)}."
    )


def _listed(entries: NDArray[np.int64], form: Form | ValueForm) -> str:
    names = ", ".join(form.entry_name(one) for one in entries[:_MOST_NAMES].tolist())
    return f"{names} and {len(entries) - _MOST_NAMES:,} more" if len(entries) > _MOST_NAMES else names


def differing(difference: float, what: str) -> str:
    """What is to be known about a function whose values at the same point differ.

    Args:
        difference: By how much they differ.
        what: Name of the point.
    """
    return (
        f"The function returned different values for the same point, {difference:.2g} apart at {what}: does it draw "
        "random numbers? Fix their seed, or state its noise as noise=."
    )


def _worst(entries: Entries, kind: Status) -> tuple[int, Notable]:
    """Coordinate and entry with the largest relative error of a kind; the first of them if none is known."""

    def size(item: tuple[int, Notable]) -> float:
        return float(np.nan_to_num(item[1].error / max(abs(item[1].derivative), 1e-300), nan=0.0))

    return max(((coordinate, one) for (coordinate, status), one in entries.notable.items() if status == kind), key=size)


def _details(kind: Status, worst: Notable, slopes: tuple[float, float] | None) -> str:
    if kind in (Status.NOISE, Status.STEP):
        better = f"; h = {worst.better_h:.1g} would do" if np.isfinite(worst.better_h) else ""
        return f" ({worst.derivative:.3g} with an error of {worst.error:.2g} at h = {worst.h:.2g}{better})"
    if kind == Status.KINK and slopes is not None:
        return f" ({slopes[0]:.6g} to the left, {slopes[1]:.6g} to the right)"
    return "" if kind in (Status.FAILED, Status.TIMEOUT) else f" (h = {worst.h:.2g})"
