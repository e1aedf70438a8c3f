"""The arguments of a function, compared with what they were: the first is moved in place from point to point."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any, NoReturn

import numpy as np

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form
from distnum.evaluation.points import Points

__all__ = ["Argument", "FurtherArguments"]

# Looking at the further arguments takes at most this part of the time, apart from the first look.
_LOOKING_PART = 0.02
# Containers with more entries are not looked into.
_MOST_ENTRIES = 10_000


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


class FurtherArguments:
    """The arguments of a function besides the point, which it must not change either.

    Arrays are compared by checksums, lists and dicts by their entries. Other objects may change.

    Args:
        positional: Their values by the names for messages, in the order of the function's arguments.
        named: Those that are passed by name.
    """

    def __init__(self, positional: Mapping[str, Any], named: Mapping[str, Any]) -> None:
        self.args = tuple(positional.values())
        self._all = {**positional, **{f"kwargs[{name!r}]": value for name, value in named.items()}}
        began = perf_counter()
        self._before = dict(self._states())
        self._look_s = perf_counter() - began
        self._next_look = 0.0

    def check_unchanged(self, now: bool = False) -> None:
        """Refuse a function that has changed one of them.

        Args:
            now: Look even if that takes long compared with the time since the last look.

        Raises:
            InputError: It has.
        """
        if not self._before or (not now and perf_counter() < self._next_look):
            return
        states = dict(self._states())
        self._next_look = perf_counter() + self._look_s / _LOOKING_PART
        if states != self._before:
            name = next(name for name in {**self._before, **states} if states.get(name) != self._before.get(name))
            raise InputError(
                f"the function changes its argument {name}; it must leave it as it is, as other points are evaluated "
                "with it. Let it work on a copy."
            )

    def _states(self) -> Iterator[tuple[str, Any]]:
        for name, value in self._all.items():
            yield from _states_of(name, value, depth=0)


def _states_of(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """What would be different if an array, list or dict, or one in it, was changed; with its name."""
    if type(value) is np.ndarray:
        if not value.dtype.hasobject:
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            yield name, (value.shape, value.dtype, zlib.crc32(content))
    elif type(value) in (dict, list, tuple) and depth < 20:
        if len(value) > _MOST_ENTRIES:
            yield name, len(value)
            return
        items = list(value.items() if type(value) is dict else enumerate(value))
        yield name, [(key, id(item)) for key, item in items]
        for key, item in items:
            yield from _states_of(f"{name}[{key!r:.40}]", item, depth + 1)
