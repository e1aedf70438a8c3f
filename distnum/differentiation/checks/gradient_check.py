"""The result of a check of a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["CheckedEntry", "GradientCheck"]

# Entries that are listed by name.
_MOST_LISTED = 10


class CheckedEntry(NamedTuple):
    """One entry of a gradient that was compared.

    Attributes:
        name: Its name, such as ``"W[3, 17]"``.
        given: The entry of the gradient that was given.
        numerical: The finite difference.
        tolerance: Largest difference that is allowed.
        verdict: ``"ok"``, ``"wrong"``, ``"kink"`` (the given value lies between the slopes on the two sides) or
            ``"unknown"`` (the finite difference could not be settled).
        slopes: Slopes to the left and to the right, at a kink; NaN elsewhere.
    """

    name: str
    given: float
    numerical: float
    tolerance: float
    verdict: str
    slopes: tuple[float, float] = (np.nan, np.nan)


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """Difference between a gradient and the numerical one. It is true in a condition if the gradient is right.

    Attributes:
        ok: Whether no entry is wrong.
        mode: ``"full"`` (every entry was compared) or ``"fast"`` (random directions).
        error: Euclidean norm of the difference relative to the larger norm of the two gradients; 0 if both are zero. In
            fast mode the largest relative difference along a direction.
        worst: Name of the entry that differs most relative to its tolerance.
        given, numerical: That entry in the gradient that was given, and by finite differences.
        entries: Entries that are not right, the worst first; at least the worst one.
        n_wrong: Number of wrong entries; in fast mode those that were found.
        hint: What the mistake may be, such as a wrong sign; "" if nothing fits.
        n_evals: Evaluations of the function.
        message: One line.
    """

    ok: bool
    mode: str
    error: float
    worst: str
    given: float
    numerical: float
    entries: list[CheckedEntry]
    n_wrong: int
    hint: str
    n_evals: int
    message: str

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        lines = [f"GradientCheck: {self.message}"]
        if not self.ok or any(entry.verdict != "ok" for entry in self.entries):
            lines.append(f"  {'entry':<24} {'given':>16} {'numerical':>16} {'tolerance':>10}  verdict")
            for entry in self.entries[:_MOST_LISTED]:
                lines.append(
                    f"  {entry.name:<24.24} {entry.given:>16.9g} {entry.numerical:>16.9g} {entry.tolerance:>10.2g}  "
                    f"{entry.verdict}"
                    + (f" (slopes {entry.slopes[0]:.6g}, {entry.slopes[1]:.6g})" if entry.verdict == "kink" else "")
                )
            if len(self.entries) > _MOST_LISTED:
                lines.append(f"  ... {len(self.entries) - _MOST_LISTED:,} more")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)
