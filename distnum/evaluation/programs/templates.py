"""Texts with places for numbers: ``${alpha}``, ``${x[3]}``, ``${W[2, 0]}``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.evaluation.trees import Path, names_of, take_apart

__all__ = ["NamedNumbers", "Template"]

# "$${" stands for "${" itself; "${" that no "}" of the same line closes is a mistake.
_PLACE = re.compile(r"\$\$\{|\$\{(?P<name>[^{}\n]*)\}|\$\{")
_INDEX = re.compile(r"(?P<leaf>.*)\[(?P<index>\s*\d+\s*(,\s*\d+\s*)*)\]", re.DOTALL)
_MOST_NAMES = 8


@dataclass(frozen=True)
class Template:
    """A text with places for numbers.

    Attributes:
        title: Its name in messages, such as ``"model.in"``.
        text: The text.
        pieces: The text between the places; one more than places.
        names: The name in each place, without spaces at its ends.
        lines: The line of each place, from 1.
    """

    title: str
    text: str
    pieces: tuple[str, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...]

    @classmethod
    def of(cls, title: str, text: str) -> Template:
        """Find the places in a text.

        Raises:
            InputError: A place is not closed, or empty.

        >>> Template.of("in.json", '{"a": ${a}, "cost": "$${5}"}').pieces
        ('{"a": ', ', "cost": "${5}"}')
        """
        pieces, names, lines = [""], [], []
        end = 0
        for found in _PLACE.finditer(text):
            pieces[-1] += text[end : found.start()]
            end = found.end()
            if found[0] == "$${":
                pieces[-1] += "${"
                continue
            line = text.count("\n", 0, found.start()) + 1
            name = (found["name"] or "").strip()
            if not name:
                raise InputError(
                    f"{title}, line {line}: '${{' begins no name of a parameter that '}}' closes; write '$${{' for the "
                    "characters themselves."
                )
            pieces.append("")
            names.append(name)
            lines.append(line)
        pieces[-1] += text[end:]
        return cls(title, text, tuple(pieces), tuple(names), tuple(lines))

    def fill(self, numbers: NamedNumbers) -> str:
        """Return the text with numbers in the places.

        Raises:
            InputError: A name is unknown.

        >>> Template.of("model.in", "rate = ${k[1]}").fill(NamedNumbers({"k": np.array([2.0, 0.1])}))
        'rate = 0.1'
        """
        filled = [self.pieces[0]]
        for number, (name, piece) in enumerate(zip(self.names, self.pieces[1:], strict=True)):
            filled += [numbers.text(name, self, number), piece]
        return "".join(filled)

    def arguments(self, numbers: NamedNumbers) -> list[str]:
        """Return the text as arguments of a command: several if it is one place for an array, else one."""
        text = self.fill(numbers)
        return text.split() if self.pieces == ("", "") else [text]

    def place(self, number: int) -> str:
        """A place in words, for messages.

        >>> Template.of("model.in", "rate = ${k}").place(0)
        'model.in, line 1'
        """
        return f"{self.title}, line {self.lines[number]}"


class NamedNumbers:
    """The numbers of an argument by name.

    An array that is not in a dict has the name ``x``. What is in a dict has its key, and further keys and positions of
    nested dicts and lists: ``layers[0].W``. An entry of an array has its index: ``layers[0].W[2, 5]``.

    Args:
        x: A number, an array, or nested dicts, lists and tuples of them.

    Raises:
        InputError: Something in it is not a finite real number.

    >>> NamedNumbers({"a": 1.0, "k": np.array([0.1, 0.2])}).names
    ['a', 'k[0]', 'k[1]']
    """

    def __init__(self, x: Any) -> None:
        leaves: list[tuple[Path, Any]] = []
        take_apart(x, leaves)
        names = names_of([path for path, _ in leaves], "x")
        self._leaves = {name: _numbers(value, name) for name, (_, value) in zip(names, leaves, strict=True)}

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of the arrays and numbers."""
        return tuple((name, array.shape) for name, array in self._leaves.items())

    @property
    def names(self) -> list[str]:
        """Names of all numbers."""
        return [_entry(name, index) for name, shape in self.shapes for index in np.ndindex(*shape)]

    def text(self, name: str, template: Template, place: int) -> str:
        """Return a number as text that is read back as the same bits; the rows of an array as lines.

        Raises:
            InputError: The name is unknown; the message names the place in the template.
        """
        leaf, index = self._find(name, template, place)
        return _text(self._leaves[leaf][index].tolist())

    def check_all_used(self, templates: Iterable[Template]) -> None:
        """Check that each number is used in one of the templates.

        Raises:
            InputError: Some are not.
        """
        used = {name: np.zeros(array.shape, bool) for name, array in self._leaves.items()}
        for template in templates:
            for place, name in enumerate(template.names):
                leaf, index = self._find(name, template, place)
                used[leaf][index] = True
        unused = [
            _entry(leaf, index)
            for leaf, flags in used.items()
            if not flags.all()
            for index in np.ndindex(flags.shape)
            if not flags[index]
        ]
        if unused:
            raise InputError(
                f"the program does not use {_listed(unused)}: no place in {_listed(_titles(templates))} has this name. "
                f"Write ${{{unused[0]}}} where the number belongs, or leave it out of x."
            )

    def _find(self, name: str, template: Template, place: int) -> tuple[str, tuple[int, ...]]:
        if name in self._leaves:
            return name, ()
        found = _INDEX.fullmatch(name)
        if found and found["leaf"] in self._leaves:
            index = tuple(int(part) for part in found["index"].split(","))
            shape = self._leaves[found["leaf"]].shape
            if len(index) == len(shape) and all(i < n for i, n in zip(index, shape, strict=True)):
                return found["leaf"], index
            raise InputError(
                f"{template.place(place)}: ${{{name}}} is outside of {found['leaf']}, which has the shape {shape}."
            )
        raise InputError(
            f"{template.place(place)}: ${{{name}}} is no parameter; there are {_listed(list(self._leaves))}."
        )


def _numbers(value: Any, name: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} is {value!r:.60}; a program takes real numbers.")
    if not np.isfinite(array).all():
        index = next(index for index in np.ndindex(array.shape) if not np.isfinite(array[index]))
        raise InputError(f"{_entry(name, index)} is {array[index]}; a program takes finite numbers.")
    return array


def _text(value: Any) -> str:
    """One number, a row of them, or rows, one in a line."""
    if not isinstance(value, list):
        return repr(value)
    separator = "\n" if value and isinstance(value[0], list) else " "
    return separator.join(map(_text, value))


def _entry(name: str, index: Iterable[Any]) -> str:
    inside = ", ".join(str(int(i)) for i in index)
    return f"{name}[{inside}]" if inside else name


def _titles(templates: Iterable[Template]) -> list[str]:
    return list(dict.fromkeys(template.title for template in templates))


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
