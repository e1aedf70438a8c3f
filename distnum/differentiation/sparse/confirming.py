"""Confirms a sparse derivative by differences along one direction in which all coordinates are moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.sparse.entries import SparseEntries
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.differentiation.stencils.steps import default_h

__all__ = ["Direction", "coarsest_eps", "contradicting_rows", "direction_of"]

# Rows contradict if they differ by more than this multiple of the error that is estimated ...
_TIMES_ERROR = 8.0
# ... and by more than the errors of their terms that a stencil does not show: those of a step that is large relative to
# the scale of the function, which may be that of x. They are at least and at most these fractions of a term.
_LEAST, _MOST, _TIMES_STEP = 1e-5, 1e-2, 10.0
_NOT_TESTED = (Status.KINK, Status.JUMP, Status.FAILED, Status.TIMEOUT, Status.MISSING)


@dataclass(frozen=True)
class Direction:
    """Two points in which all coordinates are moved, by different amounts.

    With the values ``f_1`` and ``f_2`` there, ``sum(weights[k] * (f_k - f_0))`` is the Jacobian times ``moved``.

    Attributes:
        points: The points, shape ``(2, n)``, in the dtype of ``x``.
        factors: Distances of the points, in units of the first one's.
        weights: Of the changes at the points.
        moved: ``sum(weights[k] * (points[k] - x))``, shape ``(n,)``.
        hidden: Error of the term of each coordinate that a stencil does not show, as a fraction, shape ``(n,)``.
        bends: Whether the derivative itself is wrong by as much as the function bends: it is of order 1.
    """

    points: Array
    factors: tuple[float, float]
    weights: tuple[float, float]
    moved: NDArray[np.float64]
    hidden: NDArray[np.float64]
    bends: bool


def direction_of(request: Request, h: NDArray[np.float64], random: np.random.Generator) -> Direction:
    """A random direction of the coordinates of a request.

    Each is moved by half its step up to the whole step, up or down. The points are on both sides of ``x``; or on one
    side, where the scheme or bounds say so.

    Args:
        request: What is differentiated.
        h: Step of each coordinate, shape ``(c,)``; that of the central difference counts for the complex step.
        random: Chooses the direction.
    """
    indices, scheme = request.indices, request.scheme
    x = request.x[indices].astype(np.float64)
    size = np.maximum(np.abs(x), 1.0)
    if scheme.imaginary:
        h = default_h(SCHEMES["central"], request.x.dtype) * size
    below = np.full(len(x), np.inf) if request.lower is None else x - request.lower[indices]
    above = np.full(len(x), np.inf) if request.upper is None else request.upper[indices] - x
    signs = random.choice([-1.0, 1.0], len(x))
    amounts = random.uniform(0.5, 1.0, len(x))
    sides = set() if scheme.imaginary else set(np.sign(scheme.offsets).tolist())
    side = sides.pop() if len(sides) == 1 else 0
    if side == 0 and (np.minimum(below, above) >= h).all():
        factors, weights = (1.0, -1.0), (0.5, -0.5)
    else:
        factors, weights = (1.0, 2.0), (2.0, -0.5)  # exact for parabolas
        signs = np.full(len(x), float(side)) if side else signs
        room = np.where(signs > 0, above, below)
        signs = np.where(room < 2 * h, np.where(above >= below, 1.0, -1.0), signs)
        h = np.minimum(h, np.where(signs > 0, above, below) / 2)
    points = np.tile(request.x, (2, 1))
    for point, factor in zip(points, factors, strict=True):
        point[indices] = x + factor * (signs * amounts * h)
    offsets = points.astype(np.float64) - request.x
    moved = weights[0] * offsets[0] + weights[1] * offsets[1]
    hidden = np.full(len(request.x), _MOST)
    with np.errstate(all="ignore"):
        hidden[indices] = np.clip(_TIMES_STEP * (h / np.abs(x)) ** min(scheme.order, 2), _LEAST, _MOST)
    return Direction(points, factors, weights, moved, hidden, scheme.order == 1)


def coarsest_eps(*dtypes: DTypeLike) -> float:
    """The largest relative spacing of floating-point numbers of some types."""
    return max(float(np.finfo(np.dtype(dtype)).eps) for dtype in dtypes)


def contradicting_rows(
    entries: SparseEntries,
    base: NDArray[np.inexact],
    direction: Direction,
    values: NDArray[np.inexact],
    noise: NDArray[np.float64] | None,
) -> NDArray[np.bool_]:
    """Outputs whose differences along a direction are not those of the derivative, shape ``(m,)``.

    Outputs with entries that are not known are not tested.

    Args:
        entries: The derivative.
        base: Value at ``x``, shape ``(m,)``.
        direction: The direction.
        values: Values at its points, shape ``(2, m)``.
        noise: Absolute noise of the function, shape ``(m,)``, or None.
    """
    sparsity, m = entries.sparsity, len(base)
    moved, hidden = (np.repeat(one, np.diff(sparsity.starts)) for one in (direction.moved, direction.hidden))
    used = moved != 0
    outputs, derivative, error = sparsity.outputs[used], entries.derivative[used], entries.error[used]
    moved, hidden, h = moved[used], hidden[used], entries.h[used]

    def sums(terms: NDArray[np.inexact]) -> NDArray[np.inexact]:
        if np.iscomplexobj(terms):
            return np.asarray(sums(terms.real) + 1j * sums(terms.imag))
        return np.bincount(outputs, weights=np.asarray(terms, np.float64), minlength=m).astype(np.float64)

    with np.errstate(all="ignore"):
        known = np.isfinite(derivative) & np.isfinite(error) & ~np.isin(entries.status[used], _NOT_TESTED)
        tested = np.bincount(outputs, weights=~known, minlength=m) == 0
        changes = values.astype(np.result_type(values, np.float64)) - base
        difference = direction.weights[0] * changes[0] + direction.weights[1] * changes[1]
        expected = sums(np.where(known, derivative, 0.0) * moved)
        terms = sums(np.abs(np.where(known, derivative, 0.0) * moved) * hidden)
        bend = np.abs(changes[0] / direction.factors[0] - changes[1] / direction.factors[1])
        if not direction.bends:
            bend *= bend / np.maximum(np.maximum(np.abs(difference), bend), np.finfo(np.float64).tiny)
        eps = coarsest_eps(direction.points.dtype, values.dtype)
        allowed = _TIMES_ERROR * (sums(np.where(known, error, 0.0) * np.abs(moved)) + eps * np.abs(base))
        values_error = np.zeros(m)  # an error of the derivative times its step is one of the values
        np.maximum.at(values_error, outputs, np.where(known, error * h, 0.0))
        allowed += 2 * np.fmax(values_error, 0.0 if noise is None else 2 * noise)
        allowed += terms + bend
        contradicts = np.abs(difference - expected) > allowed
    return np.asarray(tested & contradicts)
