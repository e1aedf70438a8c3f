"""A store of evaluations: values and failures of functions by key, in files that only grow.

Opening a store reads the keys; values are read when they are needed. What a key stands for is not known here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from distnum.common.errors import InputError
from distnum.storage.evaluation_rows import (
    FunctionRecord,
    Rows,
    content_of_function,
    content_of_rows,
    function_in,
    head_of_rows,
    rows_in,
)
from distnum.storage.frames import framed, frames, read_frame
from distnum.storage.segment_folders import Folder, open_folder
from distnum.storage.segments import Segment

__all__ = ["EvaluationStore"]
log = logging.getLogger("distnum")


class EvaluationStore:
    """The evaluations in a folder or at a URI. Several processes can use it at once.

    A process finds what was there when it opened the store, and what it has added itself. If a point has several rows,
    the first value counts, and the last failure if there is no value. Damaged records are skipped, with one remark.

    Args:
        location: A folder, which is made if it is missing, or a URI.
        new: Whether a local folder may be made.

    Attributes:
        name: The location as text.
        functions: The functions by key; the last record of each.

    Raises:
        InputError: The location cannot be used, or holds other files.
    """

    def __init__(self, location: str | Path, new: bool = True) -> None:
        self._folder = open_folder(location, new)
        self.name = self._folder.name
        self.functions: dict[str, FunctionRecord] = {}
        self._index: dict[bytes, int] = {}  # place of each row: record, row, and whether it failed
        self._names: list[str] = []
        self._of_name, self._at = array("l"), array("q")  # for each record, the number of its file and its position
        self._reading: tuple[str, BinaryIO] | None = None
        self._segments: list[Segment] = []
        self._close = weakref.finalize(self, _close, self._folder, self._segments)
        try:
            self._read_all()
        except OSError as error:
            self.close()
            raise InputError(f"store is {self.name!r}, which cannot be read: {error.strerror or error}.") from None

    def _read_all(self) -> None:
        damaged: list[str] = []
        for name in self._folder.names():
            self._names.append(name)
            with self._folder.open(name) as file:
                for position, content in frames(file):
                    try:
                        if content is None:
                            raise ValueError("damaged")
                        self._know(position, content)
                    except ValueError:
                        damaged.append(f"{name} at byte {position}")
        if damaged:
            log.warning(
                "store %s has %d damaged or incomplete record%s, which %s skipped; the first is in %s.",
                *(self.name, len(damaged), "s"[: len(damaged) > 1], "is" if len(damaged) == 1 else "are", damaged[0]),
            )

    def _know(self, position: int, content: bytes) -> None:
        """Put a record of the last file into the index."""
        if function := function_in(content):
            self.functions[function.key] = function
            return
        keys, failed, _ = head_of_rows(content)
        record = len(self._at)
        self._of_name.append(len(self._names) - 1)
        self._at.append(position)
        for row, key in enumerate(keys):
            before = self._index.get(key)
            if before is None or before & 1:
                self._index[key] = record << 33 | row << 1 | (failed[row] != 0)

    def __len__(self) -> int:
        """Number of points with a row."""
        return len(self._index)

    def find(self, keys: Iterable[bytes]) -> list[int | None]:
        """Return for each key the place of its row, for ``failed`` and ``read``; None if there is none."""
        return [self._index.get(key) for key in keys]

    @staticmethod
    def failed(place: int) -> bool:
        """Whether the row at a place is a failure."""
        return bool(place & 1)

    def read(self, places: Sequence[int]) -> Iterator[tuple[Rows, list[int], list[int]]]:
        """Yield the rows at places, record by record.

        Yields:
            All rows of a record, the positions in it that are wanted, and for each of these its number in ``places``.
            What can no longer be read is left out.
        """
        numbers = sorted(range(len(places)), key=places.__getitem__)
        begin = 0
        while begin < len(numbers):
            record = places[numbers[begin]] >> 33
            end = begin
            while end < len(numbers) and places[numbers[end]] >> 33 == record:
                end += 1
            part = numbers[begin:end]
            rows = self._record(record)
            if rows is not None:
                yield rows, [(places[number] >> 1) & 0xFFFFFFFF for number in part], part
            begin = end

    def all_rows(self) -> Iterator[Rows]:
        """Yield all rows that count, record by record, in the order in which they were added."""
        for rows, positions, _ in self.read(sorted(self._index.values())):
            yield rows if len(positions) == len(rows) else rows.take(positions)

    def _record(self, record: int) -> Rows | None:
        name = self._names[self._of_name[record]]
        try:
            if self._reading is None or self._reading[0] != name:
                self._stop_reading()
                self._reading = name, self._folder.open(name)
            content = read_frame(self._reading[1], self._at[record])
            return None if content is None else rows_in(content)
        except (OSError, ValueError):
            return None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def add_function(self, function: FunctionRecord) -> None:
        """Add a record of a function, or a newer one."""
        self._append(content_of_function(function))

    def add(self, rows: Rows) -> None:
        """Add rows. When this returns, the system has them, unless a warning says that it cannot be written."""
        self._append(content_of_rows(rows))

    def _append(self, content: bytes) -> None:
        last = self._segments[-1] if self._segments else None
        if last is None or last.is_full or last.process != os.getpid():
            if last is not None:
                last.close()
            try:
                self._segments.append(Segment(self._folder))
            except OSError as error:
                raise InputError(
                    f"store is {self.name!r}, which cannot be written: {error.strerror or error}."
                ) from None
            self._names.append(self._segments[-1].name)
        self._know(self._segments[-1].append(framed(content)), content)

    def close(self) -> None:
        """Write everything to the disk, or to the URI, and release the store."""
        self._stop_reading()
        self._close()

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(folder: Folder, segments: list[Segment]) -> None:
    with contextlib.suppress(OSError):
        for segment in segments:
            segment.close()
    folder.close()
