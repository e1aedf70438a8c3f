"""The points that no worker has. No Ray here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Supply"]

Numbers = NDArray[np.int64]


class Supply:
    """Points that no worker has: fresh ones, and those that are evaluated by themselves.

    Args:
        draw: Returns the numbers of up to ``k`` new points; fewer if there are no more.
    """

    def __init__(self, draw: Callable[[int], Numbers]) -> None:
        self._draw = draw
        self._returned: deque[Numbers] = deque()
        self._single: deque[int] = deque()

    def take(self, most: int) -> Numbers:
        """Numbers of points for one task, at most this many; empty if there are none."""
        if self._single:
            return np.array([self._single.popleft()])
        if not self._returned:
            return self._draw(most)
        numbers = self._returned.popleft()
        if len(numbers) > most:
            self._returned.appendleft(numbers[most:])
        return numbers[:most]

    @property
    def n_returned(self) -> int:
        """Number of points that were taken and given back."""
        return len(self._single) + sum(map(len, self._returned))

    def give_back(self, numbers: Numbers) -> None:
        """Add points that were taken and not evaluated."""
        if len(numbers):
            self._returned.append(numbers)

    def give_back_singly(self, numbers: Numbers) -> None:
        """Add points that will be evaluated one in a task."""
        self._single.extend(numbers.tolist())
