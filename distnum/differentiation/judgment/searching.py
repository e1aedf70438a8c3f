"""Searches a step for coordinates that are not settled by their stencil, all of them at once.

Each round adds a level (see ``levels``) of two points to a coordinate, at the distance that one of its outputs wants
(see ``choosing``); every output chooses its own level. Where a point has no value, the next one is nearer, then on the
other side only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.differentiation.judgment.choosing import Assessment, assess, best_of, next_distance
from distnum.differentiation.judgment.judging import NEARER, Verdict, judge, negligible, within_step
from distnum.differentiation.judgment.levels import Levels
from distnum.differentiation.judgment.precision import round_off, value_size
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.stencils.stencil import Stencil
from distnum.differentiation.stencils.steps import smallest_h

__all__ = ["LARGEST", "MOST_ROUNDS", "Search"]

MOST_ROUNDS = 3
"""Rounds of a search, of two evaluations for each coordinate."""

LARGEST = 0.4
"""Largest distance relative to the scale of ``x``: a derivative at ``x`` is asked for."""

# Levels nearer to each other than this factor are not worth two evaluations: in general, and for the best step of all.
_DIFFERENT, _DIFFERENT_BEST = 2.5, 1.5
# Smallest distance in units in the last place of x.
_SMALLEST_ULPS = 64.0


class Search:
    """A search for better steps.

    Args:
        stencil: The stencil of the ``c`` coordinates.
        base: Value at the base point, shape ``(m,)``; or ``(c, m)`` if each coordinate has outputs of its own.
        values: Values at the points of the stencil, shape ``(k, c, m)``.
        noise: Noise that the user states, of the shape of ``base``, or None.
        lower, upper: Bounds of the coordinates, shape ``(c,)``, or None.
        scale: Size of each coordinate, shape ``(c,)``, by default ``max(|x|, 1)``. No point is farther away.
        every: Whether also entries that the stencil settles get their best step.
    """

    def __init__(
        self,
        stencil: Stencil,
        base: NDArray[np.inexact],
        values: NDArray[np.inexact],
        noise: NDArray[np.float64] | None = None,
        lower: Array | None = None,
        upper: Array | None = None,
        scale: NDArray[np.float64] | None = None,
        every: bool = False,
    ) -> None:
        x = stencil.x.astype(np.float64)
        c = len(x)
        self._x, self._base, self._noise, self._every = stencil.x, base, noise, every
        self._below = np.full(c, np.inf) if lower is None else x - lower
        self._above = np.full(c, np.inf) if upper is None else upper - x
        self._scale = np.maximum(np.abs(x), 1.0) if scale is None else scale
        ulp = np.spacing(np.abs(self._x)).astype(np.float64)
        self._smallest_h = np.maximum(_SMALLEST_ULPS * ulp, smallest_h(self._x.dtype))
        self._scheme_side = _side_of(stencil)
        self._side = np.full(c, self._scheme_side)
        self._first_h = stencil.h
        self._points: list[tuple[NDArray[np.float64], NDArray[np.inexact]]] = [(stencil.offsets, values)]
        self._pairs = [] if stencil.scheme.imaginary else _pairs(stencil.offsets, values)
        self._stencil = stencil
        self._n_rounds = 0
        with np.errstate(all="ignore"):
            self._judge()

    def ask(self) -> tuple[NDArray[np.int64], Array]:
        """What to evaluate next.

        Returns:
            Positions of coordinates, each twice, and what to put in their place; empty when the search is over.
        """
        rows = np.flatnonzero(np.isfinite(self._next))
        return np.concatenate([rows, rows]), self._asked(rows).ravel()

    def _asked(self, rows: NDArray[np.int64]) -> Array:
        """The points of the next level of some coordinates, shape ``(2, q)``."""
        x, h, side = self._x[rows], self._next[rows].astype(self._x.dtype), self._side[rows].astype(self._x.dtype)
        return np.stack([x + np.where(side == 0, h, side * h), x + np.where(side == 0, -h, 2 * side * h)])

    def tell(self, values: NDArray[np.inexact]) -> None:
        """Add the values at the points of ``ask``, in their order, shape ``(2 q, m)``; NaN where there is none."""
        rows = np.flatnonzero(np.isfinite(self._next))
        shape = (2, len(self._x), self._base.shape[-1])
        offsets, full = np.full(shape[:2], np.nan), np.full(shape, np.nan, np.result_type(values, np.float64))
        offsets[:, rows] = self._asked(rows).astype(np.float64) - self._x[rows].astype(np.float64)
        full[:, rows] = values.reshape(2, len(rows), -1)
        if not self._pairs:  # the only point of the stencil, and the first one here
            first, at_first = self._points[0]
            self._pairs.append((np.stack([first[0], offsets[0]]), np.stack([at_first[0], full[0]])))
        self._pairs.append((offsets, full))
        self._points.append((offsets, full.astype(values.dtype)))
        self._n_rounds += 1
        with np.errstate(all="ignore"):
            self._judge()

    def result(self) -> Verdict:
        """The best derivative of each entry, and its status."""
        return self._verdict

    def slopes(self) -> NDArray[np.inexact]:
        """Slopes to the left and to the right at the smallest level whose bend is seen, shape ``(2, c, m)``."""
        return self._slopes

    def _judge(self) -> None:
        """Judge all levels, and find the next ones."""
        base, c = self._base, len(self._x)
        offsets = np.concatenate([offsets for offsets, _ in self._points])
        values = np.concatenate([values for _, values in self._points])
        # Near points show rounding that far ones do not, as their values change less.
        parts = [round_off(base, there, at, self._x, self._noise) for at, there in self._points]
        self.eps_f = np.maximum.reduce(parts)
        first = judge(self._stencil, base, self._points[0][1], self.eps_f)
        if not self._pairs:
            self._verdict, self._slopes = first, np.full((2, *first.status.shape), np.nan)
            unsettled = ~first.settled.all(axis=1) & (not self._stencil.scheme.imaginary)
            step = np.cbrt(np.finfo(self._x.dtype).eps) * self._scale
            self._next = self._fitted(np.where(unsettled, step, np.nan))
            return
        levels = Levels(
            np.stack([offsets for offsets, _ in self._pairs]),
            np.stack([values for _, values in self._pairs]),
            base,
            self.eps_f,
        )
        assessment = assess(levels, value_size(base, values, offsets, self._x), self._scale)
        self._verdict = self._better(first, best_of(assessment, self._scheme_side), assessment)
        self._slopes = levels.slopes()
        if self._n_rounds >= MOST_ROUNDS:
            self._next = np.full(c, np.nan)
            return
        wanted = next_distance(assessment, self._verdict.settled, self._smallest_h, self._every)
        if self._n_rounds == 0:
            size = np.abs(self._x.astype(np.float64))
            inside = within_step(self._x, self._first_h, np.abs(first.derivative), self.eps_f) & ~first.settled
            wanted = np.where(inside, NEARER * size[:, None], wanted)
        self._next = self._fitted(_one_of(np.where(self._near(levels, wanted), np.nan, wanted)))
        self._seek_values(levels)

    def _better(self, first: Verdict, found: Verdict, assessment: Assessment) -> Verdict:
        """The verdict on the stencil where that settles an entry, else what was found."""
        usable = assessment.usable.any(axis=0)
        keep = first.settled & ~usable
        if not self._every:
            keep = first.settled
        elif len(self._stencil.offsets) > 2:  # the error of two points is a guess
            keep = first.settled & (~usable | (first.error <= found.error))
        # A stencil of one point may be all that bounds have room for.
        keep |= (found.status == Status.FAILED) & np.isfinite(first.derivative)
        # No level of the stencil alone settles what the stencil does not.
        settled = first.settled | found.settled if self._n_rounds else first.settled
        derivative, error = np.where(keep, first.derivative, found.derivative), np.where(keep, first.error, found.error)
        status = np.where(keep, first.status, found.status).astype(np.uint8)
        small = np.isfinite(error) & negligible(derivative, error)  # at kinks and jumps the error is NaN
        status[small & (status == Status.NOISE)] = Status.OK
        return Verdict(derivative, error, status, np.where(keep, first.h, found.h), settled | small)

    def _near(self, levels: Levels, wanted: NDArray[np.float64]) -> Mask:
        """Whether a level is there already near the distances wanted, after they are fitted, shape ``(c, m)``."""
        fitted = np.clip(wanted, self._smallest_h[:, None], LARGEST * self._scale[:, None])
        factor = _DIFFERENT_BEST if self._every else _DIFFERENT
        ratio = levels.distance[:, :, None] / fitted
        return np.asarray(((ratio < factor) & (ratio > 1 / factor)).any(axis=0))

    def _seek_values(self, levels: Levels) -> None:
        """Where the nearest points have no values, look nearer, then on one side."""
        without = ~np.isfinite(self._base)
        index = np.where(levels.evaluated, levels.distance, np.inf).argmin(axis=0)
        columns = np.arange(len(self._x))
        has = (np.isfinite(levels.changes[:, index, columns]) | without).all(axis=2)
        missing = ~has.all(axis=0) & np.isfinite(levels.distance[index, columns])
        rows = np.flatnonzero(missing)
        if not rows.size:
            return
        nearest = levels.distance[index, columns][rows]
        x = np.abs(self._x[rows].astype(np.float64))
        relative = x * self._first_h[rows] / self._scale[rows]
        nearer = np.where((x > 0) & (relative < nearest / 4), relative, nearest / 64)
        if self._n_rounds > 0 and self._scheme_side == 0:
            turn = rows[(has[0] != has[1])[rows] & (self._side[rows] == 0)]
            # The first point of a pair on both sides is the upper one.
            self._side[turn] = np.where(has[0][turn], 1, -1)
            nearer = np.where(np.isin(rows, turn), self._first_h[rows], nearer)
        wanted = np.full(len(self._x), np.nan)
        wanted[rows] = nearer
        self._next = np.where(missing, self._fitted(wanted), self._next)

    def _fitted(self, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances within the bounds and the scale; sides are chosen where one of them has no room."""
        h = np.clip(wanted, self._smallest_h, LARGEST * self._scale)
        far = np.maximum(self._below, self._above)
        turn = np.isfinite(h) & (self._room() < h) & (self._room() < far / 2)
        self._side = np.where(turn, np.where(self._above > self._below, 1, -1), self._side)
        room = self._room()
        return np.where(room > 0, np.minimum(h, room), np.nan)

    def _room(self) -> NDArray[np.float64]:
        """The largest distances within the bounds, shape ``(c,)``."""
        one_side = np.where(self._side > 0, self._above, self._below) / 2
        return np.where(self._side == 0, np.minimum(self._below, self._above), one_side)


def _side_of(stencil: Stencil) -> int:
    """1 or -1 if the scheme has points on one side only, else 0."""
    signs = {int(np.sign(offset)) for offset in stencil.scheme.offsets}
    return 0 if stencil.scheme.imaginary or len(signs) > 1 else signs.pop()


def _one_of(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """One of the distances that the outputs of a coordinate want, shape ``(c,)``: a middle one, not a mean."""
    ordered = np.sort(wanted, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    middle = np.maximum(count - 1, 0) // 2
    return np.where(count > 0, ordered[np.arange(len(ordered)), middle], np.nan)


def _pairs(
    offsets: NDArray[np.float64], values: NDArray[np.inexact]
) -> list[tuple[NDArray[np.float64], NDArray[np.inexact]]]:
    """The points of a stencil in pairs: the nearest two, the next two, and so on; the upper point first."""
    order = np.lexsort((-offsets, np.abs(offsets)), axis=0)
    columns = np.arange(offsets.shape[1])
    return [
        (offsets[pair, columns], values[pair, columns].astype(np.result_type(values, np.float64)))
        for pair in (order[i : i + 2] for i in range(0, len(offsets) - 1, 2))
    ]
