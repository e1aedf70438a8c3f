"""Where to put the points of a scheme: representable, different from each other, and within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import factorial

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.differentiation.stencils.schemes import Scheme
from distnum.differentiation.stencils.steps import representable_h, smallest_h

__all__ = ["in_parts", "lagrange_weights", "place"]

# The smallest step between bounds, in units in the last place of x. Points of a smaller one might coincide.
_SMALLEST_ULPS = 8
# Coordinates near bounds, or with unequal offsets, are treated in parts of this length: their arrays stay in the cache.
_TOGETHER = 8192


def place(
    scheme: Scheme, x: Array, steps: NDArray[np.float64], low: Array, high: Array, entry_name: Callable[[int], str]
) -> tuple[Array, NDArray[np.float64]]:
    """The points of a scheme, or others where they would cross a bound.

    Args:
        scheme: The scheme.
        x: The coordinates, shape ``(n,)``.
        steps: The steps asked for, shape ``(n,)``.
        low, high: Bounds that can be broadcast to ``x``, from ``checked_bounds``.
        entry_name: Returns the name of a coordinate in messages.

    Returns:
        Values to put in the place of ``x``, shape ``(k, n)``, and the steps between them, shape ``(n,)``, float64.

    Raises:
        InputError: Bounds leave too little room for different floating-point numbers.
    """
    with np.errstate(over="ignore"):
        step = _distinct(scheme, x, _representable(x, steps))
        values = np.stack([x + offset * step for offset in scheme.offsets])
        crossing = np.flatnonzero(~((values >= low) & (values <= high)).all(axis=0))
    low, high = np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)
    for some in in_parts(crossing):
        step[some], values[:, some], room = _within(scheme, x[some], step[some], low[some], high[some])
        if not room.all():
            index = int(some[~room][0])
            raise InputError(
                f"the bounds of {entry_name(index)} = {x[index]:.9g} are {low[index]:.17g} and {high[index]:.17g}; "
                f"they leave too little room for different points in {x.dtype}."
            )
    return values, step.astype(np.float64)


def _representable(x: Array, steps: NDArray[np.float64]) -> Array:
    """``representable_h``, or the step itself where ``x`` plus the step overflows."""
    with np.errstate(over="ignore"):
        step = representable_h(x, steps)
    return np.where(np.isfinite(step), step, steps.astype(x.dtype))


def _distinct(scheme: Scheme, x: Array, step: Array) -> Array:
    """The steps; longer ones where points coincide with each other or with ``x``."""
    apart = 4 * _ulp(x)  # beyond the next power of two, numbers are twice as far apart
    small = np.flatnonzero(step < apart)
    if small.size:
        near = x[small]
        points = np.sort(np.stack([near] + [near + offset * step[small] for offset in scheme.offsets]), axis=0)
        coincide = small[(points[1:] == points[:-1]).any(axis=0)]
        step[coincide] = apart[coincide]
    return step


def _ulp(x: Array) -> Array:
    """Distance from ``|x|`` to the next smaller number; unlike that to the next larger one, it is always finite."""
    return np.spacing(np.nextafter(np.abs(x), x.dtype.type(0)))


@cache
def _windows(scheme: Scheme) -> tuple[tuple[tuple[int, ...], float, float], ...]:
    """The choices near bounds: offsets, and their factors of noise and truncation for a step of 1.

    Each takes the nearest points of the grid on both sides, some above ``x`` and the others below. The nearest to the
    scheme itself comes first.
    """
    k = len(scheme.offsets)
    above = sum(offset > 0 for offset in scheme.offsets)
    windows = []
    for m in sorted(range(k + 1), key=lambda m: abs(m - above)):
        offsets = sorted([*range(m - k, 0), *range(1, m + 1)], key=lambda offset: (abs(offset), -offset))
        weights, _ = lagrange_weights(np.array(offsets, np.float64)[:, None])
        noise = float(np.abs(weights).sum() + abs(weights.sum()))
        windows.append((tuple(offsets), noise, factorial(m) * factorial(k - m) / factorial(k + 1)))
    return tuple(windows)


def _within(scheme: Scheme, x: Array, steps: Array, low: Array, high: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Points between bounds: the best choice of ``_windows`` with the longest step, up to the one asked for, that fits.

    The best has the smallest sum of noise ``A / h`` and truncation ``B h ** k``. They are weighed by the assumption
    that the step asked for is the best for the scheme itself, where ``A / h = k B h ** k``.

    Returns:
        Steps ``(n,)``, values ``(k, n)``, and whether there is room for them ``(n,)``.
    """
    windows, k = _windows(scheme), len(scheme.offsets)
    _, noise, truncation = windows[0]
    with np.errstate(over="ignore"):
        below, above = x - low.astype(np.float64), high - x.astype(np.float64)
    closest = np.maximum(_SMALLEST_ULPS * _ulp(x).astype(np.float64), smallest_h(x.dtype))
    asked = np.maximum(steps.astype(np.float64), closest)
    least = np.full(len(x), np.inf)
    best = np.zeros(len(x), np.int64)
    fitting: NDArray[np.float64] = asked
    for number, (offsets, A, B) in enumerate(windows):
        h = asked
        if max(offsets) > 0:
            h = np.minimum(h, above / max(offsets))
        if min(offsets) < 0:
            h = np.minimum(h, below / -min(offsets))
        ratio = np.maximum(h, closest) / asked  # no division by zero
        error = A / ratio + noise * B / (k * truncation) * ratio**k
        better = (error < least) & (h >= closest)
        best[better], least[better] = number, error[better]
        fitting = np.where(better, h, fitting)
    table = np.array([offsets for offsets, _, _ in windows], x.dtype).T
    h = _representable(x, fitting)
    return h, np.clip(x + table[:, best] * h, low, high), np.isfinite(least)


def lagrange_weights(offsets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights times ``h`` for any offsets, shape ``(k, n)``, and ``h``, the smallest distance, shape ``(n,)``.

    The weight of point ``k`` is the derivative at 0 of its Lagrange polynomial through 0 and all offsets ``z``:
    ``1 / z_k * prod_j z_j / (z_j - z_k)`` over the others ``j``.
    """
    h = np.abs(offsets).min(axis=0)
    coefficients = h / offsets
    for number, offset in enumerate(offsets):
        for other, z in enumerate(offsets):
            if other != number:
                coefficients[number] *= z / (z - offset)
    return coefficients, h


def in_parts(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Some thousand indices at a time."""
    for start in range(0, len(indices), _TOGETHER):
        yield indices[start : start + _TOGETHER]
