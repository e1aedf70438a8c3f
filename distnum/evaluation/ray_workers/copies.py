"""Points that several workers evaluate, as the first one is far overdue. No Ray here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Copies"]

Numbers = NDArray[np.int64]


class Copies:
    """Counts the workers that have, or will be given, each copied point."""

    def __init__(self) -> None:
        self._n_under_way: dict[int, int] = {}
        self._done: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._n_under_way)

    def add(self, numbers: Numbers) -> Numbers:
        """Copy points: note that one more worker will evaluate them. Return those that were not copied before."""
        new = np.array([number for number in numbers.tolist() if number not in self._n_under_way], np.int64)
        self._n_under_way |= dict.fromkeys(new.tolist(), 2)
        return new

    def are_done(self, numbers: Numbers) -> bool:
        """Whether all these points are finished."""
        return bool(self._done) and self._done.issuperset(numbers.tolist())

    def needed(self, numbers: Numbers) -> Numbers:
        """Those of these points that are not finished."""
        if not self._done:
            return numbers
        return np.array([number for number in numbers.tolist() if number not in self._done], np.int64)

    def finished(self, numbers: Numbers) -> set[int]:
        """Note that a worker has finished these points; return those that another one had finished before."""
        copied = self._n_under_way.keys() & set(numbers.tolist())
        before = copied & self._done
        self._done |= copied
        return before

    def ended(self, numbers: Numbers) -> Numbers:
        """Note that a worker does not finish these points; return those that no other one has or had."""
        left = []
        for number in numbers.tolist():
            if number in self._n_under_way:
                self._n_under_way[number] -= 1
                if number in self._done or self._n_under_way[number] > 0:
                    continue
            left.append(number)
        return np.array(left, np.int64)
