"""The course of a differentiation whose pattern is known: independent coordinates are moved together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.differentiation.judgment.searching import Search
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.procedure import Procedure
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.sparse.confirming import Direction, coarsest_eps, contradicting_rows, direction_of
from distnum.differentiation.sparse.entries import SparseEntries
from distnum.differentiation.sparse.shared import Moves, Shared, evaluate_shared
from distnum.differentiation.sparse.sparsity import Sparsity
from distnum.differentiation.stencils.stencil import Stencil
from distnum.evaluation.points import Points

__all__ = ["SparseProcedure"]

Ints = NDArray[np.int64]

# Largest number of contradicting rows that are named.
_MOST_NAMES = 5
_SEED = 0


class SparseProcedure(Procedure):
    """The rounds of one differentiation with the option ``sparsity``.

    Coordinates with equally many entries are judged together, each by its own outputs. All else is as without a
    pattern. In the end the derivative is compared with differences along a random direction, and outputs that must not
    change at a point are looked at, so that a wrong pattern is found.
    """

    def __init__(self, request: Request, rounds: Rounds, full: bool) -> None:
        super().__init__(request, rounds, full)
        assert request.sparsity is not None
        self._sparsity: Sparsity = request.sparsity
        self._used = np.flatnonzero(self._sparsity.counts(request.indices) > 0)  # positions with entries
        self._groups = np.zeros(len(request.indices), np.int64)
        self._groups[self._used] = self._sparsity.groups(request.indices[self._used])
        self._outside = np.zeros(self._sparsity.shape[0])  # largest changes of outputs where they must not change
        self._h = np.empty(0)

    def run(self) -> None:
        """Evaluate the points of the stencil, those of a search, and those that confirm the pattern."""
        super().run()
        if not self._rounds.stopped:
            self._rounds.phase = "confirmation"
            self._confirm()

    def _first_round(self, stencil: Stencil) -> None:
        positions, k = self._used, len(stencil.values)
        self._h = stencil.h.copy()
        if not positions.size:  # only coordinates that nothing depends on
            self._rounds.evaluate_all(Places.of_base(self._request.x))
            return
        moved = stencil.values[:, positions]
        shared = self._evaluate(np.tile(positions, k), moved.ravel(), np.repeat(np.arange(k), len(positions)))
        if self._rounds.base is None:
            return
        point_of = shared.point_of.reshape(k, -1)
        done = shared.done[point_of].all(axis=0)
        positions, point_of = positions[done], point_of[:, done]
        for some in self._sparsity.alike(self._request.indices[positions], k):
            self._judge(stencil, positions[some], self._values(shared, point_of[:, some], positions[some]))
        if not self._rounds.stopped and self._unsettled:
            self._check_repeats()

    def _settle_together(self, stencil: Stencil) -> None:
        """Nothing: coordinates of a group are searched together anyway."""

    def _search(self, stencil: Stencil, lower: Array | None, upper: Array | None) -> None:
        searches = [
            Search(
                stencil.take(positions),
                self._base_of(positions),
                values,
                self._noise_of(positions),
                None if lower is None else lower[positions],
                None if upper is None else upper[positions],
                every=self._adaptive,
            )
            for positions, values in self._unsettled
        ]
        while not self._rounds.stopped:
            asked = [search.ask() for search in searches]
            counts = [len(rows) for rows, _ in asked]
            if not sum(counts):
                break
            parts = zip(self._unsettled, asked, strict=True)
            positions = np.concatenate([positions[rows] for (positions, _), (rows, _) in parts])
            slots = np.concatenate([np.repeat([0, 1], count // 2) for count in counts])
            shared = self._evaluate(positions, np.concatenate([moved for _, moved in asked]), slots)
            ends = np.cumsum(counts)
            for search, start, end in zip(searches, ends - counts, ends, strict=True):
                if end > start:
                    search.tell(self._values(shared, shared.point_of[None, start:end], positions[start:end])[0])
        for search, (positions, values) in zip(searches, self._unsettled, strict=True):
            self._conclude(search, stencil.take(positions), positions, values)
            if self._request.may_search:
                self._h[positions] = np.fmin(self._h[positions], search.result().h.min(axis=1))  # too large for none

    def _evaluate(self, positions: Ints, moved: NDArray[np.inexact], slots: Ints) -> Shared:
        """Evaluate moves of coordinates, and look for outputs that change where they must not."""
        request, rounds, sparsity = self._request, self._rounds, self._sparsity
        moves = Moves(request.indices[positions], moved, self._groups[positions], slots)

        def check() -> None:
            assert rounds.value_form is not None
            sparsity.check_size(rounds.value_form)

        shared = evaluate_shared(rounds, request.x, moves, check)
        if rounds.base is not None:
            for number, some in enumerate(shared.moves_of):
                change = np.abs(shared.values[number] - rounds.known_base)
                change[sparsity.rows(moves.coordinates[some])] = 0.0
                self._outside = np.fmax(self._outside, change)
        return shared

    def _values(self, shared: Shared, point_of: Ints, positions: Ints) -> NDArray[np.inexact]:
        """Values of the outputs of coordinates, shape ``(k, c, w)``, at points of shape ``(k, c)``."""
        outputs = self._outputs(positions)
        return shared.values[point_of[:, :, None], outputs]

    def _outputs(self, positions: Ints) -> Ints:
        """Outputs of coordinates with equally many entries, shape ``(c, w)``."""
        return self._sparsity.outputs[self._sparsity.entries(self._request.indices[positions])]

    def _base_of(self, positions: Ints) -> NDArray[np.inexact]:
        return self._rounds.known_base[self._outputs(positions)]

    def _noise_of(self, positions: Ints) -> NDArray[np.float64] | None:
        return None if self._noise is None else self._noise[self._outputs(positions)]

    def _no_entries(self) -> SparseEntries:
        return SparseEntries(self._sparsity)

    def _confirm(self) -> None:
        """Compare with differences along a random direction, by two evaluations; say which rows contradict.

        No direction is needed if every coordinate is moved by itself: then ``_evaluate`` sees all that changes.
        """
        request, rounds = self._request, self._rounds
        entries = self._entries or self._no_entries()
        assert isinstance(entries, SparseEntries)
        if rounds.base is None:
            return
        direction, values = None, None
        if len(self._used) < len(request.indices) or self._groups.max() + 1 < len(self._used):
            direction = direction_of(request, self._h, np.random.default_rng(_SEED))
            values = self._along(direction)
            if not np.isfinite(values).any(axis=1).all():
                self._remark = "The pattern could not be confirmed: the function has no value along a random direction."
                return
        rows = self._contradicting(entries, direction, values)
        if rows.size and self._noise is None and not self._difference:
            self._check_repeats()  # a random function contradicts every pattern
            if self._difference:
                rows = self._contradicting(entries, direction, values)
        if rows.size:
            entries.mark(rows)
            self._remark = self._contradiction(rows)

    def _along(self, direction: Direction) -> NDArray[np.inexact]:
        """Values at the two points of a direction, shape ``(2, m)``; NaN where the function fails."""
        x = self._request.x
        points = Points.of_vectors(x, direction.points)
        return self._rounds.evaluate_all(Places(np.full(2, -2), np.array(direction.factors), points), raises=False)

    def _contradicting(
        self, entries: SparseEntries, direction: Direction | None, values: NDArray[np.inexact] | None
    ) -> Ints:
        base = self._rounds.known_base
        eps = coarsest_eps(self._request.x.dtype, base.dtype)
        rows = self._outside > 8 * eps * np.abs(base) + (0.0 if self._noise is None else 4 * self._noise)
        if direction is not None and values is not None:
            rows |= contradicting_rows(entries, base, direction, values, self._noise)
        return np.flatnonzero(rows)

    def _contradiction(self, rows: Ints) -> str:
        form = self._rounds.value_form
        assert form is not None
        names = ", ".join(form.entry_name(int(row)) for row in rows[:_MOST_NAMES])
        more = f" and {len(rows) - _MOST_NAMES:,} more" if len(rows) > _MOST_NAMES else ""
        depend = "depends" if len(rows) == 1 else "depend"
        return (
            f"sparsity is wrong in {len(rows):,} of {self._sparsity.shape[0]:,} rows: {names}{more} {depend} on "
            f"coordinates outside the pattern. Entries in these rows have the status {Status.PATTERN.name} and may be "
            "wrong."
        )
