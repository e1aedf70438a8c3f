"""Finite-difference schemes: where to evaluate, and how to combine what was found.

A scheme moves one parameter ``x`` to the points ``x + o * h`` of its stencil and
combines the values there into an approximation of the derivative,

    f'(x) = sum_k n_k * (f(x + o_k * h) - f(x)) / (d * h) + O(h ** order)

with integer offsets ``o_k``, integer numerators ``n_k`` and one denominator ``d``, so
that forming the sum rounds as little as possible. Coefficients: B. Fornberg,
"Generation of Finite Difference Formulas on Arbitrarily Spaced Grids", Mathematics of
Computation 51 (1988), table 1.

Nothing here calls a function of the user: arrays in, arrays out.
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
        name: what users call it.
        offsets: the points of the stencil beside the base point, in units of ``h``.
        numerators: the weight of the change of the function at each point.
        denominator: what all the weights are divided by.
        order: the power of ``h`` with which the truncation error falls.
    """

    name: str
    offsets: tuple[int, ...]
    numerators: tuple[int, ...]
    denominator: int
    order: int

    @property
    def reach(self) -> int:
        """How far the stencil goes from the base point, in units of ``h``."""
        return max(abs(offset) for offset in self.offsets)

    @property
    def uses_base(self) -> bool:
        """Whether the value at the base point itself takes part in the formula."""
        return sum(self.numerators) != 0

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """The same sum over differences between two points: ``(first offset, second offset, weight)`` of each.

        An offset of zero is the base point.

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
        """Whether every pair lies evenly about the base point."""
        return all(first == -second for first, second, _ in self.pairs)

    def combine(self, changes: NDArray[np.floating], h: float | np.floating) -> NDArray[np.floating]:
        """The derivative from the changes of the function at the stencil's points.

        Args:
            changes: shape ``(n_points, ...)``: ``f(x + o_k * h) - f(x)``, in the order
                of ``offsets``. Where ``uses_base`` is false, plain values
                ``f(x + o_k * h)`` give the same result, as the base cancels.
            h: the step really taken.

        Returns:
            shape ``(...)``, the dtype of ``changes``.
        """
        return self.weigh(changes) / (self.denominator * h)

    def weigh(self, changes: NDArray[np.floating]) -> NDArray[np.floating]:
        """The weighted sum of ``combine``, not yet divided by ``denominator * h``."""
        total = self.numerators[0] * changes[0]
        for numerator, change in zip(self.numerators[1:], changes[1:], strict=True):
            total = total + numerator * change
        return total


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
    """The scheme of that name.

    Raises:
        InputError: no scheme has that name.
    """
    try:
        return SCHEMES[name]
    except (KeyError, TypeError):
        raise InputError(f"scheme is {name!r}; it must be one of {', '.join(SCHEMES)}.") from None
