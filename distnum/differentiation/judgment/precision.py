"""The absolute noise of a function's values: what the user states, or rounding as far as the values show it."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["round_off", "value_size"]

# A grid counts only if the values change by fewer of its steps: a finer one does not matter.
_STEPS_OF_GRID = 2.0**17
# ... and only if the points have more significant binary digits than the changes have, by at least this number: x**2
# has few digits where x has few.
_SPARE_BITS = 3
# Numbers are on a decimal grid if they are multiples of it up to this many units in the last place, and not so large
# that they would be by chance: these must not be more than this fraction of the grid.
_ULPS, _CHANCE = 4.0, 2.0**-6


def round_off(
    base: NDArray[np.inexact],
    values: NDArray[np.inexact],
    offsets: NDArray[np.floating],
    x: NDArray[np.floating],
    noise: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Absolute noise of the values around each coordinate.

    It is one unit in the last place of the largest value and of ``x f'``, the size of what is added up inside the
    function where a small value is a difference of large ones, in the lower of the precisions of ``x`` and of the
    values. Values may show a coarser grid: those of a function that computes in single precision inside are multiples
    of a larger power of two, those of ``round(f, 6)``, or of a program that prints seven digits, multiples of a power
    of ten, those of ``(1e10 + f) - 1e10`` multiples of an ulp of 1e10. Half a step of the grid is their noise. A grid
    is no evidence if the points themselves are on a coarse grid, as for ``x = 1, h = 0.5``.

    Args:
        base: Value at the base point, shape ``(m,)``; or ``(c, m)`` if each coordinate has outputs of its own.
        values: Values at the other points, shape ``(k, c, m)``; those that are not finite do not count.
        offsets: Offsets of the points, shape ``(k, c)``.
        x: The coordinates, shape ``(c,)``.
        noise: Noise that the user states, of the shape of ``base``; it counts where it is larger.

    Returns:
        Shape ``(c, m)``, positive.
    """
    _, c, m = values.shape
    if np.iscomplexobj(values) or np.iscomplexobj(base):
        parts = [round_off(part(base), part(values), offsets, x, noise) for part in (np.real, np.imag)]
        return np.hypot(*parts)
    with np.errstate(all="ignore"):
        used = np.where(np.isfinite(values), values, base).astype(np.float64)
        known: NDArray[np.float64] = np.where(np.isfinite(base), base, 0.0).astype(np.float64)
        change = np.zeros((c, m))
        for row in used:
            change = np.maximum(change, np.abs(row - known))
        size = value_size(known, values, offsets, x)
        level = _eps(x.dtype, base.dtype, values.dtype) * size  # values may have been collected as float64
        points = x.astype(np.float64) + np.where(np.isfinite(offsets), offsets, 0.0)
        level = np.maximum(level, _binary_grid(known, used, change, points - x, x) / 2)
        rows = np.flatnonzero(((change > 0) & (change < _STEPS_OF_GRID * size)).any(axis=1))
        if rows.size:
            single = bool((used == used.astype(np.float32)).all())  # also after a conversion to float64
            precisions = _eps(np.float32 if single else values.dtype), _eps(x.dtype)
            grid = _decimal_grid(
                np.broadcast_to(known, (c, m))[rows],
                used[:, rows],
                change[rows],
                points[:, rows],
                (points - x)[:, rows],
                precisions,
            )
            level[rows] = np.maximum(level[rows], grid / 2)
        smallest = np.finfo(values.real.dtype).smallest_subnormal
    level = np.maximum(level, float(smallest))
    return level if noise is None else np.maximum(level, noise)


def value_size(
    base: NDArray[np.inexact], values: NDArray[np.inexact], offsets: NDArray[np.floating], x: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Size of what a function computes with: its largest value plus ``|x f'|``, shape ``(c, m)``.

    A small value may be a difference of large ones; for these, ``x`` times the largest slope is a guess.
    """
    shape = values.shape[1:]
    absolute = np.abs(base)
    size: NDArray[np.float64] = np.zeros(shape) + np.where(np.isfinite(absolute), absolute, 0.0)
    slope = np.zeros(shape)
    with np.errstate(all="ignore"):
        for row, offset in zip(values, offsets, strict=True):
            absolute = np.abs(row)
            size = np.where(np.isfinite(absolute), np.maximum(size, absolute), size)
            slope = np.fmax(slope, np.abs(row - base) / np.abs(offset)[:, None])
        inside = slope * np.abs(x.astype(np.float64))[:, None]
    return size + np.where(np.isfinite(inside), inside, 0.0)


def _eps(*dtypes: DTypeLike) -> float:
    return max(float(np.finfo(np.dtype(dtype)).eps) for dtype in dtypes)


def _lowest_bit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest power of two of which a number is a multiple; infinite for zero."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    return np.where(values == 0, np.inf, np.ldexp((whole & -whole).astype(np.float64), exponents - 53))


def _binary_grid(
    base: NDArray[np.float64],
    values: NDArray[np.float64],
    change: NDArray[np.float64],
    offsets: NDArray[np.float64],
    x: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Step of the binary grid that all values are on, shape ``(c, m)``; 0 where it does not count."""
    grid = np.broadcast_to(_lowest_bit(base), change.shape)
    for row in values:
        grid = np.minimum(grid, _lowest_bit(row))
    digits = np.abs(offsets) / np.minimum(_lowest_bit(offsets), _lowest_bit(x.astype(np.float64)))
    most = np.where(offsets == 0, 0.0, digits).max(axis=0)[:, None]
    counts = (change > 0) & (change < _STEPS_OF_GRID * grid) & (change * 2.0**_SPARE_BITS < most * grid)
    return np.where(counts & np.isfinite(grid), grid, 0.0)


def _on_grid(values: NDArray[np.float64], grid: NDArray[np.float64], eps: float) -> NDArray[np.bool_]:
    """Whether numbers are multiples of ``grid``, up to their rounding, for all along the first axis."""
    ratio = values / grid
    rounding = _ULPS * eps * np.abs(ratio)
    return np.asarray(((np.abs(ratio - np.round(ratio)) <= rounding) & (rounding < _CHANCE)).all(axis=0))


def _decimal_grid(
    base: NDArray[np.float64],
    values: NDArray[np.float64],
    change: NDArray[np.float64],
    points: NDArray[np.float64],
    offsets: NDArray[np.float64],
    eps: tuple[float, float],
) -> NDArray[np.float64]:
    """Step of the decimal grid that all values are on, shape ``(c, m)``; 0 where it does not count.

    The finest grid that would matter is tried first; few values are on it. ``eps`` are the precisions of values and
    points.
    """
    everything = np.concatenate([np.broadcast_to(base, (1, *change.shape)), values])
    finest = np.maximum(1e-5 * change, _ULPS / _CHANCE * eps[0] * np.abs(everything).max(axis=0))
    exponent = np.ceil(np.log10(np.where(change > 0, finest, np.nan)))
    counts = _on_grid(everything, 10.0**exponent, eps[0])
    if not counts.any():
        return np.zeros(change.shape)
    far = np.abs(offsets).max(axis=0)
    coarse_points = _on_grid(points, 10.0 ** np.floor(np.log10(far * 1e-5)), eps[1])
    counts &= ~coarse_points[:, None]
    found = np.where(counts, 10.0**exponent, 0.0)
    for finer in range(1, 7):
        grid = 10.0 ** (exponent + finer)
        found = np.where(counts & _on_grid(everything, grid, eps[0]), grid, found)
    return np.where(found <= 10 * change, found, 0.0)
