"""The argument of a function, moved in place from point to point, and compared with what it was."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form
from distnum.evaluation.points import Points

__all__ = ["Argument"]


class Argument:
    """The argument of a function, moved in place from point to point.

    Attributes:
        base: The base point, shape ``(n,)``, in the dtype of the moved values.
    """

    def __init__(self, form: Form, points: Points) -> None:
        self._form = form
        self.base = points.base.astype(np.result_type(points.base, points.values))
        self._x = self.base.copy()
        self._view = form.view(self._x)
        self._has_numbers = any(form.scalars)  # numbers cannot be changed in place
        starts = points.starts
        self._starts = None if np.all(np.diff(starts) == 1) else starts.tolist()
        self._entries: list[int] = points.entries.tolist()
        self._values: list[Any] = points.values.tolist()

    def move(self, number: int) -> Any:
        """The argument at a point, in the user's form."""
        if self._starts is None:
            self._x[self._entries[number]] = self._values[number]
        else:
            for position in range(self._starts[number], self._starts[number + 1]):
                self._x[self._entries[position]] = self._values[position]
        return self._form.view(self._x) if self._has_numbers else self._view

    def move_back(self, number: int) -> None:
        """Restore the base point."""
        if self._starts is None:
            entry = self._entries[number]
            if self._x[entry] != self._values[number]:
                self._refuse(entry, self._values[number])
            self._x[entry] = self.base[entry]
            return
        begin, end = self._starts[number], self._starts[number + 1]
        if begin == end:  # a function that changes its argument shall be found at the base point at once
            self.check_unchanged()
        for position in range(begin, end):
            entry = self._entries[position]
            if self._x[entry] != self._values[position]:
                self._refuse(entry, self._values[position])
            self._x[entry] = self.base[entry]

    def check_unchanged(self) -> None:
        """Refuse a function that has changed its argument.

        Raises:
            InputError: It has.
        """
        form, x, base = self._form, self._x, self.base
        if not self._has_numbers and not form.unchanged(self._view, x):
            raise InputError(
                f"the function replaces entries of its argument {form.what}; it must leave it as it is. Let it work on "
                "a copy."
            )
        if x.tobytes() == base.tobytes():
            return
        differs = (x.view(np.uint8) != base.view(np.uint8)).reshape(len(x), -1).any(axis=1)
        index = int(np.flatnonzero(differs)[0])
        self._refuse(index, base[index])

    def _refuse(self, index: int, before: Any) -> NoReturn:
        form = self._form
        raise InputError(
            f"the function changes its argument: {form.entry_name(index)} was {before:.6g} before a call and "
            f"{self._x[index]:.6g} after it. Let it work on a copy, as of {form.what}.copy()."
        )
