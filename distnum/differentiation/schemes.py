"""Finite-difference schemes: the points of their stencils, and how to combine the values there.

A scheme shifts one parameter ``x`` to the points ``x + o * h`` of its stencil and combines the
values there into an approximation of the derivative,

    f'(x) = sum_k n_k * (f(x + o_k * h) - f(x)) / (d * h) + O(h ** order)

with integer offsets ``o_k``, integer numerators ``n_k`` and one denominator ``d``, so that the sum is
rounded as little as possible. Coefficients: B. Fornberg, "Generation of Finite Difference Formulas on
Arbitrarily Spaced Grids", Mathematics of Computation 51 (1988), table 1.

Nothing here calls the user's function: arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError

__all__ = ["SCHEMES", "Scheme", "get_scheme"]


@dataclass(frozen=True)
class Scheme:
    """A stencil for the first derivative.

    Attributes:
        name: Its name on the command line and in files.
        offsets: Points of the stencil other than the base point, in units of ``h``.
        numerators: Weight of the function's change at each point.
        denominator: Common divisor of all weights.
        order: Power of ``h`` with which the truncation error falls.
    """

    name: str
    offsets: tuple[int, ...]
    numerators: tuple[int, ...]
    denominator: int
    order: int

    @property
    def reach(self) -> int:
        """Largest distance of a point from the base point, in units of ``h``."""
        return max(abs(offset) for offset in self.offsets)

    @property
    def uses_base(self) -> bool:
        """Whether the formula uses the value at the base point."""
        return sum(self.numerators) != 0

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """The scheme as a weighted sum of differences between two points.

        Each entry is ``(first offset, second offset, weight)``; offset 0 is the base point.

        >>> SCHEMES["central4"].pairs
        ((1, -1, 8), (2, -2, -1))
        """
        weights = dict(zip(self.offsets, self.numerators, strict=True))
        pairs = []
        for offset in sorted(self.offsets, key=lambda o: (abs(o), -o)):
            weight = weights.get(offset, 0)
            if offset > 0 and weights.get(-offset) == -weight:
                pairs.append((offset, -offset, weight))
                del weights[-offset]
            elif offset in weights:
                pairs.append((offset, 0, weight) if offset > 0 else (0, offset, -weight))
        return tuple(pairs)

    @property
    def symmetric(self) -> bool:
        """Whether the two points of every pair are at equal distance from the base point, on both sides."""
        return all(first == -second for first, second, _ in self.pairs)

    def combine(self, changes: NDArray[np.floating], h: float | np.floating) -> NDArray[np.floating]:
        """Derivative from the changes of the function at the stencil's points.

        Args:
            changes: ``f(x + o_k * h) - f(x)`` in the order of ``offsets``, shape ``(n_points, ...)``. If
                ``uses_base`` is false, the values ``f(x + o_k * h)`` give the same result, because
                the base value cancels.
            h: The step actually taken.

        Returns:
            Shape ``(...)``, in the dtype of ``changes``.
        """
        total = self.numerators[0] * changes[0]
        for numerator, change in zip(self.numerators[1:], changes[1:], strict=True):
            total = total + numerator * change
        return total / (self.denominator * h)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("forward", (1,), (1,), 1, order=1),
        Scheme("backward", (-1,), (-1,), 1, order=1),
        Scheme("central", (1, -1), (1, -1), 2, order=2),
        Scheme("central4", (1, -1, 2, -2), (8, -8, -1, 1), 12, order=4),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        InputError: If no scheme has that name.
    """
    try:
        return SCHEMES[name]
    except (KeyError, TypeError):
        raise InputError(f"scheme is {name!r}; it must be one of {', '.join(SCHEMES)}.") from None
