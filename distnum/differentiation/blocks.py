"""Collects the values of a stencil's points into blocks of coordinates, which are judged together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.outcomes import Outcomes

__all__ = ["Block", "Blocks"]

# A block has about this many values, and at most this many coordinates: large enough for NumPy to be fast, small enough
# to be negligible in memory.
_BLOCK_VALUES = 2**18
_MOST_COORDINATES = 4096

Block = tuple[NDArray[np.int64], NDArray[np.inexact]]
"""Numbers of ``c`` coordinates, and the values at their points, shape ``(k, c, m)``, NaN where the function failed."""


class Blocks:
    """Values of points, as they come, in blocks of consecutive coordinates.

    Points are numbered by coordinate: those of coordinate ``j`` are ``first + j * k`` to ``first + (j + 1) * k - 1``.

    Args:
        n_coordinates: Number of coordinates.
        k: Number of points for each coordinate.
        first: Number of the first point; those before it are ignored.
    """

    def __init__(self, n_coordinates: int, k: int, first: int) -> None:
        self._n = n_coordinates
        self._k = k
        self._first = first
        self._size = 0
        self._values: dict[int, NDArray[np.inexact]] = {}
        self._arrived: dict[int, NDArray[np.bool_]] = {}
        self._early: list[Outcomes] = []

    def add(self, outcomes: Outcomes, m: int | None) -> Iterator[Block]:
        """Add finished evaluations; yield each block that is complete now.

        Args:
            outcomes: Evaluations; failed ones count as NaN.
            m: Numbers in a value; None if it is not known yet. Evaluations are then kept for the next call.
        """
        self._early.append(outcomes)
        if m is None:
            return
        if not self._size:
            self._size = max(1, min(_MOST_COORDINATES, _BLOCK_VALUES // (self._k * max(m, 1))))
        early, self._early = self._early, []
        for one in early:
            yield from self._add(one, m)

    def _add(self, outcomes: Outcomes, m: int) -> Iterator[Block]:
        chosen = outcomes.numbers >= self._first
        positions = outcomes.numbers[chosen] - self._first
        numbers = positions // (self._k * self._size)
        first, last = (int(numbers[0]), int(numbers[-1])) if len(numbers) else (0, -1)
        is_one = first == last and bool((numbers == first).all())
        for number in [first] if is_one else np.unique(numbers).tolist():
            start = number * self._size
            if number not in self._values:
                n_points = (min(start + self._size, self._n) - start) * self._k
                self._values[number] = np.full((n_points, m), np.nan)
                self._arrived[number] = np.zeros(n_points, bool)
            inside = numbers == number
            places = positions[inside] - start * self._k
            if outcomes.form is not None:
                self._write(number, places, outcomes.values[chosen][inside])
            self._arrived[number][places] = True
            if self._arrived[number].all():
                yield self._taken(number)

    def _write(self, number: int, places: NDArray[np.int64], values: NDArray[np.inexact]) -> None:
        array = self._values[number]
        if np.iscomplexobj(values) and not np.iscomplexobj(array):
            self._values[number] = array = array.astype(np.complex128)
        array[places] = values

    def rest(self) -> Iterator[Block]:
        """The complete coordinates of blocks that are not complete."""
        for number in sorted(self._values):
            yield self._taken(number)

    def _taken(self, number: int) -> Block:
        values = self._values.pop(number)
        arrived = np.logical_and.reduce(self._arrived.pop(number).reshape(-1, self._k), axis=1)
        coordinates = number * self._size + np.flatnonzero(arrived)
        return coordinates, values.reshape(len(arrived), self._k, values.shape[1])[arrived].swapaxes(0, 1)
