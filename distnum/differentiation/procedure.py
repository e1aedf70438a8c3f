"""The course of a differentiation: what is evaluated, in which rounds, and what follows from the values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.differentiation.blocks import Block, Blocks
from distnum.differentiation.concluding import concluded
from distnum.differentiation.derivative import Derivative
from distnum.differentiation.directions import line_noise
from distnum.differentiation.entries import Entries
from distnum.differentiation.judgment.judging import Verdict, compared, judge
from distnum.differentiation.judgment.precision import round_off
from distnum.differentiation.judgment.searching import Search
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.starting import steps_and_noise
from distnum.differentiation.stencils.stencil import Stencil, stencil_at
from distnum.differentiation.summary import NOT_ANALYTIC
from distnum.differentiation.together import settled_together
from distnum.differentiation.unused import told_apart

__all__ = ["Procedure"]

# The point x is evaluated twice if a round has at least this many points: that costs at most one percent.
_POINTS_FOR_A_REPEAT = 100
# The noise is estimated if at least this many coordinates, and this part of them, are not settled.
_MANY, _MANY_PART = 5, 0.1


class Procedure:
    """The rounds of one differentiation.

    Args:
        request: What is differentiated.
        rounds: Evaluates its points.
        full: Whether errors and steps of all entries are kept.
    """

    def __init__(self, request: Request, rounds: Rounds, full: bool) -> None:
        self._request = request
        self._rounds = rounds
        self._full = full
        self._entries: Entries | None = None
        self._noise: NDArray[np.float64] | None = None
        self._difference = 0.0
        self._remark = ""
        self._adaptive = isinstance(request.h, str)
        # Coordinates that are not settled by the stencil, as positions in ``indices``, and the values there, (k, c, m).
        self._unsettled: list[Block] = []
        # Positions of those of which all points have the value at ``x``.
        self._unchanged: list[NDArray[np.int64]] = []

    def run(self) -> None:
        """Evaluate the points of the stencil, and of a search where these do not settle a coordinate."""
        request = self._request
        steps, self._noise = steps_and_noise(request, self._rounds, self._name)
        lower, upper = (None if bound is None else bound[request.indices] for bound in (request.lower, request.upper))
        x = request.x[request.indices]
        stencil = stencil_at(request.scheme, x, steps, lower, upper, self._name)
        self._first_round(stencil)
        for settle in (self._settle_together, self._find_noise):
            if self._unsettled and self._noise is None and not (self._adaptive or self._rounds.stopped):
                settle(stencil)
        if self._unchanged and not self._rounds.stopped:
            self._settle_unchanged(stencil)
        if self._unsettled and not self._rounds.stopped:
            self._rounds.phase = "search"
            self._search(stencil, lower, upper)

    def _name(self, position: int) -> str:
        """Name of the coordinate at a position in ``indices``."""
        return self._request.form.entry_name(int(self._request.indices[position]))

    def _first_round(self, stencil: Stencil) -> None:
        """Evaluate the stencil of all coordinates, and judge them as they are complete."""
        request, rounds = self._request, self._rounds
        k, c = stencil.values.shape
        coordinates = np.repeat(request.indices, k)
        places = Places.of_moves(request.x, coordinates, stencil.values.T.ravel())
        first = 0
        if rounds.base is None:
            places, first = Places.joined([Places.of_base(request.x), places]), 1
        blocks = Blocks(c, k, first)
        waiting: list[Block] = []
        for outcomes in rounds.evaluate(places):
            waiting += blocks.add(outcomes, rounds.n_outputs)
            if rounds.base is not None:
                while waiting:
                    self._judge(stencil, *waiting.pop())
        if rounds.stopped and rounds.base is not None:
            for block in blocks.rest():
                self._judge(stencil, *block)
        if not rounds.stopped and (self._unsettled or c * k >= _POINTS_FOR_A_REPEAT):
            self._check_repeats()

    def _judge(self, stencil: Stencil, positions: NDArray[np.int64], values: NDArray[np.inexact]) -> None:
        """Judge a block of coordinates; keep those that are not settled for the search."""
        request = self._request
        if not len(positions):
            return
        part, base = stencil.take(positions), self._base_of(positions)
        eps_f = round_off(base, values, part.offsets, part.x, self._noise_of(positions))
        verdict = judge(part, base, values, eps_f)
        self._put(positions, verdict)
        if not (request.scheme.imaginary or request.may_search or request.advises):  # no step is searched
            return
        searched = np.logical_not(verdict.settled.all(axis=1) & (not self._adaptive))
        unchanged = ~verdict.settled.all(axis=1) & (verdict.settled | (verdict.status == Status.UNCHANGED)).all(axis=1)
        if unchanged.any():
            self._unchanged.append(positions[unchanged])
            searched &= ~unchanged
        if request.scheme.imaginary:  # its step needs no search
            return
        if request.on_error == "nan":
            searched &= (np.isfinite(values) | ~np.isfinite(base)).all(axis=(0, 2))
        if searched.any():
            self._unsettled.append((positions[searched], values[:, searched]))

    def _base_of(self, positions: NDArray[np.int64]) -> NDArray[np.inexact]:
        """The value at ``x``: of the outputs of these coordinates if they have outputs of their own."""
        return self._rounds.known_base

    def _noise_of(self, positions: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The noise of the outputs of these coordinates; None if it is not known."""
        return self._noise

    def _check_repeats(self) -> None:
        """Evaluate the function at ``x`` once more; another value means that it is random."""
        if self._noise is None and not self._request.scheme.imaginary:
            self._difference = self._rounds.difference_of_repeats()
            if self._difference:  # one difference may be small by chance
                self._noise = np.full(len(self._rounds.known_base), 3 * self._difference)

    def _settle_unchanged(self, stencil: Stencil) -> None:
        """Settle coordinates that the function does not use, by moving all of them together; search the others."""
        request, rounds, blocks = self._request, self._rounds, self._unchanged
        coordinates = request.indices[np.concatenate(blocks)]
        unused, status = told_apart(rounds, request, coordinates)
        if rounds.stopped:
            return
        self._unchanged = []
        for left in _without(blocks, unused):
            base = self._base_of(left)
            values = np.broadcast_to(base, (len(stencil.values), len(left), base.shape[-1]))
            if request.scheme.imaginary:
                self._put(left, judge(stencil.take(left), base, values, np.zeros(1)).where_unchanged(status))
            else:
                self._unsettled.append((left, values))
        if request.scheme.imaginary and status == Status.NOISE and not unused.all():
            self._remark = NOT_ANALYTIC.format(request.form.entry_name(int(coordinates[~unused][0])))

    def _settle_together(self, stencil: Stencil) -> None:
        """Settle coordinates that are at a minimum, by moving all of them together."""
        positions, values = _joined(self._unsettled)
        part = stencil.take(positions)
        verdict = settled_together(self._rounds, self._request, positions, part, values)
        self._put(positions, verdict)
        left = ~verdict.settled.all(axis=1)
        self._unsettled = [(positions[left], values[:, left])] if left.any() else []

    def _find_noise(self, stencil: Stencil) -> None:
        """Estimate the function's noise if many coordinates are not settled, and judge them once more.

        Solvers have noise far above rounding. Points along a line are fewer than those of a search of every coordinate.
        """
        request, unsettled = self._request, self._unsettled
        if sum(len(positions) for positions, _ in unsettled) < max(_MANY, _MANY_PART * len(request.indices)):
            return
        level, _ = line_noise(self._rounds, request.x, request.lower, request.upper, n_lines=1)
        if len(level) and (np.nan_to_num(level) > 0).any():
            self._noise, self._unsettled = np.nan_to_num(level), []
            for positions, values in unsettled:
                self._judge(stencil, positions, values)

    def _search(self, stencil: Stencil, lower: Array | None, upper: Array | None) -> None:
        """Find better steps for the coordinates that the stencil does not settle."""
        request, rounds = self._request, self._rounds
        positions, values = _joined(self._unsettled)
        coordinates = request.indices[positions]
        stencil = stencil.take(positions)
        search = Search(
            stencil,
            rounds.known_base,
            values,
            self._noise,
            None if lower is None else lower[positions],
            None if upper is None else upper[positions],
            every=self._adaptive,
        )
        while True:
            rows, moved = search.ask()
            if not len(rows) or rounds.stopped:
                break
            # Points farther away than those that were asked for may be where the function has no value.
            search.tell(rounds.evaluate_all(Places.of_moves(request.x, coordinates[rows], moved), raises=False))
        self._conclude(search, stencil, positions, values)

    def _conclude(
        self, search: Search, stencil: Stencil, positions: NDArray[np.int64], values: NDArray[np.inexact]
    ) -> None:
        """Keep what a search has found for the coordinates of a block, whose stencil is given."""
        coordinates = self._request.indices[positions]
        found, slopes = search.result(), search.slopes()
        if self._request.may_search:
            self._put(positions, found)
        else:
            given = judge(stencil, self._base_of(positions), values, search.eps_f)
            self._put(positions, compared(given, found), found.h)
        assert self._entries is not None
        self._entries.put_slopes(coordinates, found.status == Status.KINK, slopes)

    def _put(self, positions: NDArray[np.int64], verdict: Verdict, better_h: NDArray[np.float64] | None = None) -> None:
        if self._entries is None:
            self._entries = self._no_entries()
        self._entries.forget(self._request.indices[positions])
        self._entries.put(self._request.indices[positions], verdict, better_h)

    def _no_entries(self) -> Entries:
        return Entries(len(self._rounds.known_base), len(self._request.x), self._full)

    def result(self, seconds: float) -> Derivative:
        """The derivative; raises as ``concluded``."""
        entries = self._entries or self._no_entries()  # none if the deadline was before the first coordinate
        complete = not self._unchanged
        return concluded(self._request, self._rounds, entries, seconds, self._difference, self._remark, complete)


def _joined(blocks: list[Block]) -> Block:
    """Several blocks as one."""
    positions = np.concatenate([positions for positions, _ in blocks])
    return positions, np.concatenate([values for _, values in blocks], axis=1)


def _without(blocks: list[NDArray[np.int64]], chosen: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """What is left of blocks without those that are chosen, of all of them one after the other."""
    parts = np.split(chosen, np.cumsum([len(block) for block in blocks])[:-1])
    return [block[~part] for block, part in zip(blocks, parts, strict=True) if not part.all()]
