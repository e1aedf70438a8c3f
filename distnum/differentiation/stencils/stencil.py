"""Stencils: the points of a scheme at each coordinate of ``x``, within bounds, and their exact weights.

A point replaces one coordinate ``x`` by a floating-point number ``value``. What counts is the offset really taken,
``value - x``. Where the offsets are integer multiples of one step, as a rule, the integer coefficients of the scheme
are used. Otherwise the weights come from the polynomial through the base point and all ``k`` points: the derivative
at ``x`` of its Lagrange form (B. Fornberg, Mathematics of Computation 51 (1988), computes the same by recursion). It
is exact for polynomials up to degree ``k``, whatever the offsets are. Every scheme has order ``k``, so bounds do not
lower the order.

Nothing here calls the user's function: arrays in, arrays out, for all coordinates at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.differentiation.stencils.placing import in_parts, lagrange_weights, place
from distnum.differentiation.stencils.schemes import Scheme
from distnum.differentiation.stencils.steps import checked_bounds, entry_of_x, smallest_h

__all__ = ["Columns", "Stencil", "stencil_at"]

Columns: TypeAlias = "slice | NDArray[np.int64]"
"""Which coordinates: a slice, or an array of indices."""


@dataclass(frozen=True)
class Stencil:
    """The points of a scheme at ``n`` coordinates, ``k`` for each, and how to combine the values there.

    With the values ``f_k`` at the points and ``f_0`` at the base point, the derivative is
    ``sum_k weights[k] * (f_k - f_0)``; with the complex step it is ``weights[0] * Im(f_1)``.

    Attributes:
        scheme: The scheme that was asked for.
        x: The coordinates, shape ``(n,)``.
        values: What to put in the place of ``x``, shape ``(k, n)``, in the dtype of ``x`` or complex.
        offsets: ``values - x``, rounded once, shape ``(k, n)``, float64; for the complex step the imaginary part.
        coefficients: Weights times ``divisor``, shape ``(k, n)``, float64. May be read-only.
        divisor: Common divisor of the weights, shape ``(n,)``.
        h: Distance of the nearest point, shape ``(n,)``, float64; the step really taken.
        sides: 1 where bounds left points above ``x`` only, -1 where below only, 0 elsewhere and where the scheme asked
            for is on that side; shape ``(n,)``, int8.
        uses_base: Whether the value at the base point is subtracted; shape ``(n,)``.
    """

    scheme: Scheme
    x: Array
    values: NDArray[np.inexact]
    offsets: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    divisor: NDArray[np.float64]
    h: NDArray[np.float64]
    sides: NDArray[np.int8]
    uses_base: NDArray[np.bool_]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each change ``f_k - f_0``, shape ``(k, n)``."""
        return self.coefficients / self.divisor

    @property
    def order(self) -> NDArray[np.int64]:
        """Order of accuracy, shape ``(n,)``; bounds do not lower it."""
        return np.full(len(self.x), self.scheme.order)

    @property
    def noise_factor(self) -> NDArray[np.float64]:
        """Largest error of the derivative for errors of 1 in all values, ``f_0`` included, shape ``(n,)``.

        0 for the complex step: errors of the real parts do not matter.
        """
        if self.scheme.imaginary:
            return np.zeros(len(self.x))
        total = np.abs(self.coefficients).sum(axis=0) + np.abs(self.coefficients.sum(axis=0))
        return np.asarray(total / self.divisor)

    @property
    def truncation_factor(self) -> NDArray[np.float64]:
        """Truncation error of the derivative for a derivative of order ``k + 1`` equal to 1, shape ``(n,)``.

        For the complex step the third derivative counts. Infinite or 0 where a power of ``h`` is.
        """
        with np.errstate(over="ignore", under="ignore"):
            if self.scheme.imaginary:
                return self.h**2 / 6
            k = len(self.offsets)
            return np.asarray(np.abs(self.offsets / self.h).prod(axis=0) * self.h**k / factorial(k + 1))

    def take(self, columns: Columns) -> Stencil:
        """The stencil of some coordinates."""
        return Stencil(
            self.scheme,
            self.x[columns],
            self.values[:, columns],
            self.offsets[:, columns],
            self.coefficients[:, columns],
            self.divisor[columns],
            self.h[columns],
            self.sides[columns],
            self.uses_base[columns],
        )

    def derivative(
        self, base: NDArray[np.inexact], values: NDArray[np.inexact], columns: Columns = slice(None)
    ) -> NDArray[np.inexact]:
        """Derivatives at some coordinates.

        Args:
            base: Value at the base point, shape ``(m,)``.
            values: Values at the points, shape ``(k, c, m)``.
            columns: The ``c`` coordinates; by default all.

        Returns:
            Shape ``(c, m)``, float64 or complex128. NaN or infinite where a value is.

        Raises:
            InputError: With the complex step the function is complex at ``x``, or returns real numbers at the point.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            divisor = self.divisor[columns][:, None]
            if self.scheme.imaginary:
                return _imaginaryin_parts(base, values) / divisor
            coefficients, uses_base = self.coefficients[:, columns, None], self.uses_base[columns]
            base = np.where(uses_base[:, None], base, 0) if uses_base.any() else np.zeros(1, base.dtype)
            total: Any = 0.0
            for number, coefficient in enumerate(coefficients):
                product = coefficient * (values[number].astype(np.result_type(values, np.float64)) - base)
                total = total + product if number else product
            return np.asarray(total / divisor)


def _imaginaryin_parts(base: NDArray[np.inexact], values: NDArray[np.inexact]) -> NDArray[np.float64]:
    if np.any(np.imag(base) != 0):
        raise InputError("fun(x) is complex; scheme 'complex' differentiates real functions only. Take 'central'.")
    if np.iscomplexobj(values):
        return values[0].imag.astype(np.float64)
    if not np.isnan(values).all():
        raise InputError(
            f"fun returned real numbers ({values.dtype}) where x is complex; scheme 'complex' needs a function that "
            "computes with complex numbers. Take 'central'."
        )
    return values[0].astype(np.float64)  # all evaluations failed


def stencil_at(
    scheme: Scheme,
    x: Array,
    steps: NDArray[np.floating],
    lower: Any = None,
    upper: Any = None,
    entry_name: Callable[[int], str] = entry_of_x,
) -> Stencil:
    """The stencil of a scheme at all coordinates.

    Where the points of the scheme would cross a bound, or overflow, others are chosen: with as many points and of the
    same order, and with the smallest error among all numbers of points on either side, from a smaller step to points on
    one side only (see ``placing``). Points that coincide, because a step is too small to be added to ``x``, are
    moved apart.

    Args:
        scheme: The scheme.
        x: The coordinates, shape ``(n,)``, float32 or float64, finite.
        steps: The step asked for at each coordinate, shape ``(n,)``, positive.
        lower, upper: Bounds of ``x``: one for all coordinates, one for each, or None.
        entry_name: Returns the name of a coordinate in messages.

    Raises:
        InputError: ``x`` is outside its bounds, or they leave too little room for different floating-point numbers.
    """
    low, high = checked_bounds(x, lower, upper, entry_name)
    largest = float(np.finfo(x.dtype).max) / 2**12  # no offset, and no denominator times the step, overflows
    asked: NDArray[np.float64] = np.broadcast_to(steps, x.shape).astype(np.float64)
    asked = np.clip(asked, smallest_h(x.dtype), largest)
    if scheme.imaginary:
        return _imaginary(scheme, x, asked)
    values, step = place(scheme, x, asked, low, high, entry_name)
    return _of_values(scheme, x, values, step)


def _imaginary(scheme: Scheme, x: Array, steps: NDArray[np.float64]) -> Stencil:
    values = x.astype(np.result_type(x.dtype, np.complex64))[None]
    values.imag = steps
    h = values[0].imag.astype(np.float64)
    none = np.zeros(len(x), bool)
    return Stencil(scheme, x, values, h[None], np.ones((1, len(x))), h, h, none.astype(np.int8), none)


def _of_values(scheme: Scheme, x: Array, values: Array, step: NDArray[np.float64]) -> Stencil:
    """The stencil with these points; ``step`` is their distance where they are those of the scheme."""
    offsets = values.astype(np.float64) - x
    tolerance = 2 * np.finfo(np.float64).eps * step
    regular = np.ones(len(x), bool)
    for number, offset in enumerate(scheme.offsets):
        regular &= np.abs(offsets[number] - offset * step) <= tolerance
    numerators = np.array(scheme.numerators, np.float64)[:, None]
    coefficients, divisor, h = np.broadcast_to(numerators, offsets.shape), scheme.denominator * step, step
    others = np.flatnonzero(~regular)
    if others.size:
        coefficients = coefficients.copy()
    for some in in_parts(others):
        coefficients[:, some], h[some] = lagrange_weights(offsets[:, some])
        divisor[some] = h[some]
    side = np.where((offsets > 0).all(axis=0), 1, np.where((offsets < 0).all(axis=0), -1, 0)).astype(np.int8)
    side[side == _side(scheme)] = 0
    return Stencil(scheme, x, values, offsets, coefficients, divisor, h, side, ~regular | _subtracts_base(scheme))


def _side(scheme: Scheme) -> int:
    """1 or -1 if all points of the scheme are on that side of the base point, else 0."""
    return 1 if min(scheme.offsets) > 0 else -1 if max(scheme.offsets) < 0 else 0


def _subtracts_base(scheme: Scheme) -> bool:
    """Whether the base value is subtracted from the others before they are multiplied.

    A sum that does not need the base value is rounded less so if a numerator is not a power of two: then the product
    with a value is rounded, by more than the product with a small change.
    """
    return scheme.uses_base or any(abs(numerator) & (abs(numerator) - 1) for numerator in scheme.numerators)
