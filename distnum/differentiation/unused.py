"""Tells coordinates that change nothing from those whose change is hidden by rounding, by moving many of them together.

The values at the points of a stencil may all be equal because the function does not use the coordinate, because it is
constant near ``x`` (a unit of a network that no sample activates), or because the change is lost in rounding, as that
of ``1e14 + x``. All such coordinates are moved far, by nearly half of their size, along two random directions, each to
both sides. If no bit changes, none of them is used.

If the value changes, there may be a coordinate whose change was hidden. It is not if the function is constant between
``x`` and a point nearer by some powers of ten, and is not rounded far out either: there the change of one small step is
seen. Where that does not hold, the coordinates are split into parts, each of which is tested by itself. What remains is
searched coordinate by coordinate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.judgment.searching import LARGEST
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.differentiation.stencils.steps import default_h
from distnum.evaluation.points import Points

__all__ = ["told_apart"]

Ints = NDArray[np.int64]

# With fewer coordinates, a search of each one costs no more.
_FEWEST = 3
# Coordinates that have to be searched otherwise are split into at most this many parts, of at least this many each.
_PARTS, _LEAST = 8, 4
# The small step far out, relative to the distance of the near point: a change that is hidden within the latter, as the
# values are rounded, is seen at the small step with no larger probability than this.
_SMALL = 2.0**-10
# Changes on the two sides of a minimum differ by at most this fraction.
_ODD = 1e-3


def told_apart(rounds: Rounds, request: Request, coordinates: Ints) -> tuple[NDArray[np.bool_], Status]:
    """Which coordinates have a derivative of zero, as moving them changes nothing near ``x``.

    Args:
        rounds: Evaluates the function.
        request: What is differentiated. No point is outside of its bounds.
        coordinates: Coordinates of which the points of the stencil change nothing, shape ``(c,)``.

    Returns:
        Shape ``(c,)``; and the status of the others: for the complex step ``OK`` if their derivative is zero although
        they change the value, as at a minimum; else ``NOISE``, before they are searched.
    """
    status = _of_zeros(rounds, request, coordinates) if request.scheme.imaginary else Status.NOISE
    if status != Status.NOISE:
        return np.full(len(coordinates), status == Status.UNCHANGED), status
    return _unused(rounds, request, coordinates), status


def _unused(rounds: Rounds, request: Request, coordinates: Ints) -> NDArray[np.bool_]:
    """The same by far points; with fewer than three coordinates, a search of each one costs no more."""
    unused = np.zeros(len(coordinates), bool)
    ends = _offsets(request, coordinates, LARGEST)
    parts = [np.arange(len(coordinates))] if len(coordinates) >= _FEWEST or request.scheme.imaginary else []
    while parts and not rounds.stopped:
        constant = _constant(rounds, request, coordinates, parts, ends)
        for part, is_constant in zip(parts, constant.tolist(), strict=True):
            unused[part] = is_constant & (ends[:, part] != 0).any(axis=0)
        left = [part for part, is_constant in zip(parts, constant.tolist(), strict=True) if not is_constant]
        if len(parts) > 1 and 2 * sum(map(len, left)) > sum(map(len, parts)):
            break  # most of them change the value
        parts = [some for part in left for some in _split(part)]
    return unused


def _of_zeros(rounds: Rounds, request: Request, coordinates: Ints) -> Status:
    """What a derivative of zero by the complex step means, by real steps that move all coordinates together.

    Returns:
        ``UNCHANGED`` if the value stays as it is; ``OK`` if it changes by as much on both sides, as at a minimum;
        ``NOISE`` if not: the derivative is not zero, and the function not analytic.
    """
    relative = default_h(SCHEMES["central"], request.x.dtype)
    ends = _offsets(request, coordinates, relative)
    room = np.minimum(np.abs(ends[:2]), np.abs(ends[2:]))  # bounds may leave none
    ends = np.sign(ends) * np.concatenate([room, room])
    values = _values(rounds, request, coordinates, [(np.arange(len(coordinates)), end) for end in ends])
    base = rounds.known_base
    if _same(values, base).all():
        return Status.UNCHANGED
    with np.errstate(all="ignore"):
        odd = np.abs(values[:2] - values[2:])
        even = np.abs(values[:2] + values[2:] - 2 * base)
        rounding = 8 * np.finfo(values.real.dtype).eps * np.maximum(np.abs(values[:2]), np.abs(base))
    is_even = (odd <= rounding + _ODD * even) | ~np.isfinite(base)
    return Status.OK if bool(is_even.all() and (room > 0).all()) else Status.NOISE


def _offsets(request: Request, coordinates: Ints, relative: float) -> NDArray[np.float64]:
    """Offsets up to some fraction of the size of ``x``, within bounds, shape ``(p, c)``.

    Two random directions, then the same to the other side; but the side of the scheme only, if it has one.
    """
    x = request.x[coordinates].astype(np.float64)
    below = np.full(len(x), np.inf) if request.lower is None else x - request.lower[coordinates]
    above = np.full(len(x), np.inf) if request.upper is None else request.upper[coordinates] - x
    far = relative * np.maximum(np.abs(x), 1.0)
    rng = np.random.default_rng(0)
    ends = rng.uniform(0.5, 1.0, (2, len(x))) * far
    if request.scheme.imaginary or len(set(np.sign(request.scheme.offsets))) > 1:
        ends *= rng.choice([-1.0, 1.0], ends.shape)
        ends = np.concatenate([ends, -ends])
    else:
        side = float(np.sign(request.scheme.offsets[0]))
        room, other = (above, below) if side > 0 else (below, above)
        ends *= np.where((room < far) & (room < other), -side, side)
    return np.clip(ends, -below, above)


def _constant(
    rounds: Rounds, request: Request, coordinates: Ints, parts: list[Ints], ends: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether the function is constant near ``x`` along the coordinates of each part, as described above."""
    base = rounds.known_base
    moves = [(part, end) for part in parts for end in ends]
    far = _values(rounds, request, coordinates, moves)
    constant: NDArray[np.bool_] = np.asarray(_same(far, base).all(axis=1))
    changed = np.flatnonzero(~constant)
    if len(changed) and not rounds.stopped:
        near = float(np.sqrt(np.cbrt(np.finfo(request.x.dtype).eps) / LARGEST))
        moves = [moves[number] for number in changed.tolist()]
        further = [(part, factor * end) for factor in (near, 1 - _SMALL * near) for part, end in moves]
        close, beyond = np.split(_values(rounds, request, coordinates, further), 2)
        far = far[changed]
        seen = np.isfinite(beyond) & np.isfinite(far) & (beyond != far)
        constant[changed] = (_same(close, base) & (seen | _same(far, base))).all(axis=1)
    return np.asarray(constant.reshape(len(parts), -1).all(axis=1))


def _values(
    rounds: Rounds, request: Request, coordinates: Ints, moves: list[tuple[Ints, NDArray[np.float64]]]
) -> NDArray[np.inexact]:
    """Values at points that each move a part of the coordinates, shape ``(p, m)``; NaN where the function fails."""
    x = request.x
    entries = np.concatenate([coordinates[part] for part, _ in moves])
    offsets = np.concatenate([offset[part] for part, offset in moves])
    values = (x[entries] + offsets).astype(x.dtype)
    if request.lower is not None and request.upper is not None:
        values = np.clip(values, request.lower[entries], request.upper[entries])
    starts = np.concatenate([[0], np.cumsum([len(part) for part, _ in moves])])
    places = Places(np.full(len(moves), -2), np.ones(len(moves)), Points(x, entries, values, starts))
    return rounds.evaluate_all(places, raises=False)


def _same(values: NDArray[np.inexact], others: NDArray[np.inexact]) -> NDArray[np.bool_]:
    """Where values are equal, or not a number in both, shape ``(p, m)``."""
    return np.asarray((values == others) | (np.isnan(values) & np.isnan(others)))


def _split(part: Ints) -> list[Ints]:
    n_parts = min(_PARTS, len(part) // _LEAST)
    return np.array_split(part, n_parts) if n_parts > 1 else []
