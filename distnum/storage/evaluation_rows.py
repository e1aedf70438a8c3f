"""The records of a store of evaluations: functions, and the rows of evaluations that finished together.

A record of rows begins with the keys, so that a store is opened without reading the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.packing import packed, unpacked

__all__ = [
    "KEY_BYTES",
    "FunctionRecord",
    "Rows",
    "content_of_function",
    "content_of_rows",
    "function_in",
    "head_of_rows",
    "rows_in",
]

KEY_BYTES = 16
"""Length of a key."""

_FUNCTION, _ROWS = b"F", b"R"


@dataclass(frozen=True)
class FunctionRecord:
    """A function in a store.

    Attributes:
        key: Its key, hexadecimal digits.
        name: Its name, for messages and tables.
        code: Digest of its code; "" if unknown.
        point: Key of a point at which it was evaluated, hexadecimal digits.
        x: That point, flat, float or complex.
        time: When the record was made, in seconds since 1970.
    """

    key: str
    name: str
    code: str
    point: str
    x: NDArray[np.inexact]
    time: float


@dataclass(frozen=True)
class Rows:
    """Evaluations of one function that finished together.

    Attributes:
        function: Key of the function.
        keys: Keys of the points.
        names: For each point the name of the coordinate that was moved; "" where none was.
        offsets: How far it was moved, shape ``(k,)``, float or complex.
        moved_to: Its value there, shape ``(k,)``.
        form: Form of the values as JSON; None if all of them failed.
        values: Flat values, shape ``(k, m)``; NaN where the function failed.
        failures: For each failure the position in ``keys``, kind, reason, traceback, number of attempts, host.
        timeout: Limit in seconds of each evaluation; None if there was none.
        seconds: Duration of each evaluation, shape ``(k,)``.
        host: Name of the machine.
        time: When the record was made, in seconds since 1970.
    """

    function: str
    keys: list[bytes]
    names: list[str]
    offsets: NDArray[np.inexact]
    moved_to: NDArray[np.inexact]
    form: str | None
    values: NDArray[np.inexact]
    failures: list[list[Any]]
    timeout: float | None
    seconds: NDArray[np.float64]
    host: str
    time: float

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: Sequence[int]) -> Rows:
        """The rows at these positions."""
        wanted = list(positions)
        new = {position: number for number, position in enumerate(wanted)}
        return Rows(
            self.function,
            [self.keys[position] for position in wanted],
            [self.names[position] for position in wanted],
            self.offsets[wanted],
            self.moved_to[wanted],
            self.form,
            self.values[wanted],
            [[new[position], *rest] for position, *rest in self.failures if position in new],
            self.timeout,
            self.seconds[wanted],
            self.host,
            self.time,
        )


def content_of_rows(rows: Rows) -> bytes:
    """The content of a record: ``R``, the number of rows, their keys, whether each failed, and the rest, packed."""
    failed = bytearray(len(rows))
    for position, *_ in rows.failures:
        failed[position] = 1
    rest = {name: value for name, value in vars(rows).items() if name != "keys"}
    return b"".join([_ROWS, len(rows).to_bytes(4, "little"), *rows.keys, failed, packed(rest)])


def head_of_rows(content: bytes) -> tuple[list[bytes], bytes, int]:
    """The keys in a record of rows, whether each failed, and where the rest begins.

    Raises:
        ValueError: It is no record of rows.
    """
    n = int.from_bytes(content[1:5], "little")
    end = 5 + n * KEY_BYTES
    if content[:1] != _ROWS or len(content) < end + n or n == 0:
        raise ValueError("no record of rows")
    return [content[at : at + KEY_BYTES] for at in range(5, end, KEY_BYTES)], content[end : end + n], end + n


def rows_in(content: bytes) -> Rows:
    """The rows in a record.

    Raises:
        ValueError: It is no record of rows.
    """
    keys, failed, begin = head_of_rows(content)
    fields = unpacked(content[begin:])
    try:
        rows = Rows(keys=keys, **fields)
        n = len(keys)
        arrays = (rows.offsets, rows.moved_to, rows.seconds)
        right = all(isinstance(one, np.ndarray) and one.shape == (n,) for one in arrays)
        right = right and len(rows.names) == n and all(isinstance(name, str) for name in rows.names)
        right = right and isinstance(rows.values, np.ndarray) and rows.values.ndim == 2 and len(rows.values) == n
        right = right and isinstance(rows.function, str) and isinstance(rows.host, str)
        right = right and isinstance(rows.form, (str, type(None))) and isinstance(rows.time, float)
        right = right and isinstance(rows.timeout, (int, float, type(None)))
        kinds = [tuple(map(type, failure)) for failure in rows.failures]
        right = right and all(kind == (int, str, str, str, int, str) for kind in kinds)
        right = right and [at for at, flag in enumerate(failed) if flag] == sorted(row[0] for row in rows.failures)
    except TypeError as error:
        raise ValueError(f"no record of rows: {error}") from None
    if not right:
        raise ValueError("no record of rows: a field is of another type")
    return rows


def content_of_function(function: FunctionRecord) -> bytes:
    """The content of a record: ``F`` and the fields, packed."""
    return _FUNCTION + packed(vars(function))


def function_in(content: bytes) -> FunctionRecord | None:
    """The function in a record; None if it is one of rows.

    Raises:
        ValueError: It is neither.
    """
    if content[:1] != _FUNCTION:
        head_of_rows(content)
        return None
    try:
        record = FunctionRecord(**unpacked(content[1:]))
    except TypeError as error:
        raise ValueError(f"no record of a function: {error}") from None
    texts = (record.key, record.name, record.code, record.point)
    if not (isinstance(record.x, np.ndarray) and record.x.ndim == 1 and all(isinstance(one, str) for one in texts)):
        raise ValueError("no record of a function: a field is of another type")
    bytes.fromhex(record.point)
    return record
