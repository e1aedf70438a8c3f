"""Reads the results of a program from its folder."""

from __future__ import annotations

import json
import re
import reprlib
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from distnum.common.errors import InputError
from distnum.evaluation.programs.running import STDOUT

__all__ = ["NoResultError", "Read", "Result", "result_of"]

Read = str | Mapping[str, str] | Callable[[Path], Any]

_ALLOWED = (
    "it must be 'stdout', 'text:FILE', 'json:FILE', 'json:FILE:PATH', 'regex:FILE:PATTERN', a dict of them, or a "
    "function of the folder"
)


class NoResultError(Exception):
    """A program has not written what is to be read."""


@dataclass(frozen=True)
class Result:
    """What to read of one file.

    Attributes:
        kind: ``"text"``, ``"json"`` or ``"regex"``.
        file: Name of the file in the folder.
        detail: Path in the JSON document, or the regular expression.
    """

    kind: str
    file: str
    detail: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Files that are read."""
        return (self.file,)

    def __call__(self, folder: Path) -> Any:
        """Return the number, array or dict of them.

        Raises:
            NoResultError: The file is not there, or does not hold it.
        """
        path = folder / self.file
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would be waited for
                raise NoResultError(f"has left {self.file!r}, which is no file")
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise NoResultError(f"has not written {self.file!r}") from None
        except OSError as error:
            raise NoResultError(f"has left {self.file!r}, which cannot be read: {error.strerror}") from None
        if not text.strip() and self.file != STDOUT:
            raise NoResultError(f"has left {self.file!r} empty")
        if self.kind == "json":
            return self._of_json(text)
        return self._of_match(text) if self.kind == "regex" else self._of_words(text)

    def _of_words(self, text: str) -> Any:
        numbers = [
            _number(word, f"{self.file}, line {line}")
            for line, words in enumerate(text.splitlines(), 1)
            for word in words.split()
        ]
        if not numbers:
            raise NoResultError(f"has written no number into {self.file!r}")
        return numbers[0] if len(numbers) == 1 else np.array(numbers)

    def _of_match(self, text: str) -> float:
        found = list(re.finditer(self.detail, text, re.MULTILINE))
        if not found:
            raise NoResultError(f"has written nothing into {self.file!r} that matches {self.detail!r}")
        group = 1 if found[0].re.groups else 0
        words = [match[group] or "" for match in found]
        numbers = [_number(word.strip(), self.file) for word in words]
        if len(set(words)) > 1:
            raise NoResultError(
                f"has written {len(found)} texts into {self.file!r} that match {self.detail!r}, from {words[0]!r} to "
                f"{words[-1]!r}; begin the expression with '(?s:.*)' for the last one"
            )
        return numbers[0]

    def _of_json(self, text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise NoResultError(f"has written {self.file!r}, which is not JSON: {error}") from None
        for key in re.findall(r"[^.\[\]]+", self.detail):
            try:
                value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise NoResultError(
                    f"has written {self.file!r} without {self.detail!r}: {key!r} is not there"
                ) from None
        return self._of_tree(value, self.detail or "its content")

    def _of_tree(self, value: Any, name: str) -> Any:
        if isinstance(value, dict) and value:
            return {key: self._of_tree(one, f"{name}.{key}") for key, one in value.items()}
        try:
            array = np.array(value)
        except ValueError:  # rows of different lengths
            array = np.array(None)
        if array.dtype.kind not in "iuf" or array.size == 0:
            raise NoResultError(
                f"has written {self.file!r}, where {name} is {reprlib.repr(value)}, not a number or an array of them"
            )
        return float(array) if array.ndim == 0 else array.astype(np.float64)


@dataclass(frozen=True)
class Results:
    """Several results by name."""

    results: Mapping[str, Result]

    @property
    def files(self) -> tuple[str, ...]:
        """Files that are read."""
        return tuple(result.file for result in self.results.values())

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Return them."""
        return {name: result(folder) for name, result in self.results.items()}


def result_of(read: Read) -> Result | Results | Callable[[Path], Any]:
    """Return a callable that reads what ``read`` says.

    Raises:
        InputError: It cannot be used.
    """
    if callable(read):
        return read
    if isinstance(read, Mapping) and read:
        return Results({str(name): _of_text(one) for name, one in read.items()})
    return _of_text(read)


def _of_text(read: Any) -> Result:
    if not isinstance(read, str):
        raise InputError(f"read is {read!r:.60}; {_ALLOWED}.")
    if read == "stdout":
        return Result("text", STDOUT)
    kind, _, rest = read.partition(":")
    file, _, detail = (rest, "", "") if kind == "text" else rest.partition(":")
    if kind not in ("text", "json", "regex") or not file or (kind == "regex") > bool(detail):
        raise InputError(f"read is {read!r}; {_ALLOWED}.")
    file = STDOUT if file == "stdout" else file_in_folder(file, "read")
    if kind == "regex":
        try:
            re.compile(detail)
        except re.error as error:
            raise InputError(f"read is {read!r}, whose regular expression is wrong: {error}.") from None
    return Result(kind, file, detail)


def file_in_folder(name: Any, option: str) -> str:
    """Return the name of a file inside a folder, in one spelling.

    Raises:
        InputError: It leads out of the folder.
    """
    path = PurePath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise InputError(
            f"{option} names the file {str(name)!r}; it must be a name inside the folder of the evaluation."
        )
    return path.as_posix()


def _number(word: str, place: str) -> float:
    # Fortran writes 1.0D+02.
    text = re.sub("(?<=[0-9.])[dD](?=[+-]?[0-9])", "e", word)
    try:
        if "_" in text:  # float() accepts it
            raise ValueError
        return float(text)
    except ValueError:
        raise NoResultError(f"has written {reprlib.repr(word)} where a number is read ({place})") from None
