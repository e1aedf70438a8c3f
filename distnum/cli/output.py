"""Exit codes, results on the standard output, and the folder that a command writes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError, TrainingError

__all__ = ["BAD_INPUT", "DONE", "FAILED", "INTERRUPTED", "ReaderGone", "out_folder", "write_json", "write_output"]

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class ReaderGone(Exception):
    """Whoever read our output has closed it."""


def write_output(text: str, end: str = "\n") -> None:
    """Print a result.

    Raises:
        TrainingError: the output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        # Python would try once more at the end, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise TrainingError(f"the standard output cannot be written: {error.strerror}.") from None


@contextmanager
def out_folder(name: str | None, parent: str) -> Iterator[str]:
    """The folder, or URI, of that name; without one a new folder below ``parent``, named after the time.

    A new one is gone again if nothing was put into it.
    """
    if name == "":
        raise InputError("out is ''; it must name a folder.")
    if name is not None:
        yield name
        return
    from datetime import datetime

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
        raise InputError(f"out is {str(folder / time)!r}, where nothing can be kept: {error.strerror}.") from None
    try:
        yield str(path)
    finally:
        with suppress(OSError):  # it is in use
            path.rmdir()
            if made_parent:
                folder.rmdir()


def write_json(value: Any) -> None:
    from distnum.common.text import json_text

    write_output(json_text(value))
