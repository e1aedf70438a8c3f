"""Finite-difference schemes: the points of their stencils, and how to combine the values there.

A scheme shifts one parameter ``x`` to the points ``x + o * h`` of its stencil and combines the
values there into an approximation of the derivative,

    f'(x) = sum_k n_k * (f(x + o_k * h) - f(x)) / (d * h) + O(h ** order)

with integer offsets ``o_k``, integer numerators ``n_k`` and one denominator ``d``, so that the sum is
rounded as little as possible. Every scheme has as many points as its order. Coefficients: B. Fornberg,
"Generation of Finite Difference Formulas on Arbitrarily Spaced Grids", Mathematics of Computation 51
(1988), tables 1 and 3.

The complex step moves ``x`` by ``i * h`` instead, with the imaginary unit ``i``:

    f'(x) = Im f(x + i * h) / h + O(h ** 2)

No values are subtracted, so ``h`` can be so small that the result is exact up to rounding. It needs a
function that computes with complex numbers and is analytic (W. Squire and G. Trapp, "Using Complex
Variables to Estimate Derivatives of Real Functions", SIAM Review 40 (1998)).

Nothing here calls the user's function: arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.checks import as_int
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
        imaginary: Whether the points are ``x + i * o_k * h``, and the imaginary parts of the values are combined.
    """

    name: str
    offsets: tuple[int, ...]
    numerators: tuple[int, ...]
    denominator: int
    order: int
    imaginary: bool = False

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


# All schemes by family; the first of each is the default.
_FAMILIES = {
    "forward": (
        SCHEMES["forward"],
        Scheme("forward2", (1, 2), (4, -1), 2, order=2),
    ),
    "backward": (
        SCHEMES["backward"],
        Scheme("backward2", (-1, -2), (-4, 1), 2, order=2),
    ),
    "central": (
        SCHEMES["central"],
        SCHEMES["central4"],
        Scheme("central6", (1, -1, 2, -2, 3, -3), (45, -45, -9, 9, 1, -1), 60, order=6),
        Scheme("central8", (1, -1, 2, -2, 3, -3, 4, -4), (672, -672, -168, 168, 32, -32, -3, 3), 840, order=8),
    ),
    "complex": (Scheme("complex", (1,), (1,), 1, order=2, imaginary=True),),
}
_SCIPY_NAMES = {"2-point": "forward", "3-point": "central", "cs": "complex"}


def get_scheme(name: Any, order: Any = None) -> Scheme:
    """The scheme of a name and an order.

    Args:
        name: ``"forward"``, ``"backward"``, ``"central"`` or ``"complex"``; or SciPy's ``"2-point"`` (forward),
            ``"3-point"`` (central) or ``"cs"`` (complex). The name of a ``Scheme``, such as ``"central4"``, includes
            its order.
        order: 1 or 2 for forward and backward; 2, 4, 6 or 8 for central; 2 for complex. None takes the first.

    Raises:
        InputError: No scheme has that name and order.

    >>> get_scheme("central", 4).name, get_scheme("2-point").name
    ('central4', 'forward')
    """
    by_name: dict[str, tuple[Scheme, ...]] = dict(_FAMILIES)
    by_name |= {scheme.name: (scheme,) for schemes in _FAMILIES.values() for scheme in schemes[1:]}
    by_name |= {word: _FAMILIES[family] for word, family in _SCIPY_NAMES.items()}
    if not isinstance(name, str) or name not in by_name:
        names = ", ".join([*SCHEMES, "complex"])
        raise InputError(f"scheme is {name!r:.60}; it must be one of {names} (or {', '.join(_SCIPY_NAMES)}).")
    schemes = by_name[name]
    if order is None:
        return schemes[0]
    try:
        return next(scheme for scheme in schemes if scheme.order == as_int(order))
    except (StopIteration, ValueError, TypeError, OverflowError):
        orders = " or ".join(str(scheme.order) for scheme in schemes)
        raise InputError(f"order is {order!r:.60}; for scheme {name!r} it must be {orders}.") from None
