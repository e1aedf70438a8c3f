"""Exit codes, results on the standard output, and the folder that a command writes to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import json_text, printable

__all__ = ["BAD_INPUT", "DONE", "FAILED", "INTERRUPTED", "out_folder", "write_json", "write_output"]

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_COLOR = re.compile(r"\x1b\[[\d;:]*m")


def write_output(text: str, end: str = "\n") -> None:
    """Print text on the standard output. Nothing else in this package writes there.

    The text may hold what other people wrote, such as the output of their jobs. On a terminal, colors are left out and
    control characters are escaped, but for those of lines, columns, and progress that replaces its own line. Files and
    pipes get the text as it is.

    Raises:
        TrainingError: The standard output cannot be written, or its reader has closed it.
    """
    try:
        if sys.stdout.isatty():
            text = printable(_COLOR.sub("", text), keep="\n\t\r")
        print(text, end=end, flush=True)
    except OSError as error:
        # The stream keeps the text, and Python would write it again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise TrainingError("the standard output was closed by its reader.") from None
        raise TrainingError(f"the standard output cannot be written: {error.strerror}.") from None


def write_json(value: Any) -> None:
    """Print a value as one line of JSON on the standard output."""
    write_output(json_text(value))


@contextmanager
def out_folder(name: str | None, parent: str) -> Iterator[str]:
    """Yield the folder or URI ``name``, or a new folder ``parent``/DATE-TIME if ``name`` is None.

    A new folder that is still empty at the end is removed.

    Raises:
        InputError: The name is empty, or the new folder cannot be made.
    """
    if name == "":
        raise InputError("out is ''; it must name a folder.")
    if name is not None:
        yield name
        return
    folder, time = Path(parent), datetime.now().strftime("%Y-%m-%d-%H%M%S")
    made_parent = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        for number in count(1):
            path = folder / (time if number == 1 else f"{time}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise InputError(f"out is {str(folder / time)!r}, which cannot be made: {error.strerror}.") from None
    try:
        yield str(path)
    finally:
        with suppress(OSError):  # the folder is not empty
            path.rmdir()
            if made_parent:
                folder.rmdir()
