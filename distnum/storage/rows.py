"""The file ``metrics.jsonl`` of a run: a row of numbers for each step, as one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import json_text
from distnum.storage.files import write_error, write_whole
from distnum.storage.plain_files import append_to, read_plain

__all__ = ["StepRows"]
log = logging.getLogger("distnum")
_WRITE_EVERY_S = 1.0
_NUMBERS = ("loss", "compute_s", "dispatch_gather_s", "update_s")


class StepRows:
    """The rows of a run.

    ``open`` or ``continue_from`` comes before ``append``; reading needs neither.

    Args:
        file: The path of ``metrics.jsonl``.
        run_name: The run's folder or URI, for messages.

    Attributes:
        appended: Whether a row was appended to this object.
    """

    def __init__(self, file: Path, run_name: str) -> None:
        self.file = file
        self.appended = False
        self._run_name = run_name
        self._stream: BinaryIO | None = None
        self._unwritten: list[bytes] = []
        self._written = 0.0

    def open(self) -> None:
        """Open the file to append rows; it is created if it is missing."""
        self._stream = append_to(self.file, buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of a step. Rows are buffered; a call more than a second after the last write writes them.

        Raises:
            TrainingError: Rows cannot be written; they are kept and written with the next ones.
        """
        self.appended = True
        self._unwritten.append(_line(row))
        if perf_counter() - self._written > _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the rows that are not in the file yet.

        Raises:
            TrainingError: They cannot be written; they are kept and written with the next ones.
        """
        if not self._unwritten:
            return
        assert self._stream is not None
        self._written = perf_counter()
        content = b"".join(self._unwritten)
        size = self._stream.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._stream.write(content) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(size)  # no part of a row stays
            raise write_error(self.file, error, self._run_name) from None
        self._unwritten = []

    def flush_to_disk(self) -> None:
        """Have the system write the file's content to the disk; nothing if the file is not open.

        Raises:
            TrainingError: It cannot be written.
        """
        try:
            if self._stream is not None:
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise write_error(self.file, error, self._run_name) from None

    def close(self) -> None:
        """Write what is not in the file yet, and close it."""
        if self._stream is not None:
            # A resumed run computes rows again that a full disk does not take.
            with contextlib.suppress(TrainingError):
                self.write()
            self._stream.close()
            self._stream = None

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rows.

        Raises:
            TrainingError: They cannot be written; the old ones are intact.
        """
        self._unwritten = []
        self._replace(b"".join(map(_line, rows)))

    def read(self) -> list[dict[str, Any]]:
        """Return the rows in the file, without a last line that is cut short.

        Raises:
            InputError: The file cannot be read, or a line is not a row of a step.
        """
        return [self._parsed(number, line) for number, line in enumerate(self._lines(), start=1)]

    def continue_from(self, step: int) -> list[dict[str, Any]]:
        """Return the rows up to a step, remove the later ones, and open the file to append rows.

        The removed steps are computed again. A line that is not a row stays in the file, with a warning.

        Raises:
            InputError: The file cannot be read.
            TrainingError: It cannot be written.
        """
        lines = self._lines()
        rows: list[dict[str, Any]] = []
        n_kept = 0
        for number, line in enumerate(lines, start=1):
            try:
                row = self._parsed(number, line)
            except InputError as error:
                log.warning("%s It is skipped.", error)
                continue
            if rows and row["step"] <= rows[-1]["step"]:
                log.warning(f"{self.file} has a line {number} that repeats step {row['step']}. It is skipped.")
            elif row["step"] <= step:
                rows.append(row)
                n_kept = number
        if len(rows) < step:
            log.warning(f"{self.file} has rows of {len(rows):,} of the {step:,} steps done; the others are lost.")
        self._replace(b"".join(line + b"\n" for line in lines[:n_kept]))
        return rows

    @property
    def n_rows(self) -> int:
        """Number of complete lines in the file."""
        return len(self._lines())

    def _replace(self, content: bytes) -> None:
        """Replace the file, and open the new one."""
        try:
            write_whole(self.file, content)
            if self._stream is not None:
                self._stream.close()
            self.open()
        except OSError as error:
            raise write_error(self.file, error, self._run_name) from None

    def _lines(self) -> list[bytes]:
        """Return the lines of the file, without a last one that a crash cut short."""
        try:
            return read_plain(self.file).split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.file} cannot be read: {error.strerror or error}.") from None

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        where = f"{self.file} has a line {number} that is not a row of a step"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{where}: {line[:40]!r}.") from None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise InputError(f"{where}: it has no whole number 'step'.")
        if row.get("skipped") is True:
            row |= {"loss": math.nan, "grad_norm": math.nan}
        for name in _NUMBERS + (("test_accuracy",) if "test_accuracy" in row else ()):
            if type(row.get(name)) not in (int, float):
                raise InputError(f"{where}: its {name!r} is {row.get(name)!r:.40}; it must be a number.")
        return row


def _line(row: Mapping[str, Any]) -> bytes:
    return json_text(row).encode() + b"\n"
