"""Folders of failed calls that are kept: the first ones and the newest, at most a number of them.

The first failures show how it began, the newest how it is now. The folders between them would fill the disk, so they
are removed. How many these are is in a file next to the folders, and in the messages of further failures.

The file is locked while it is changed, so that all processes on a machine that call the same program share the limit.
This module is also used by the attendant, so it imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["FailedFolders", "keep_failed"]

# After this time, a process that holds the lock is taken to have been stopped.
_LONGEST_WAIT_S = 10.0


def keep_failed(folder: str, record: str, max_kept: int) -> str:
    """Keep the folder of a failed call, and remove another one if there are too many.

    Args:
        folder: The folder.
        record: Name of the file next to it with the names of the folders that are kept.
        max_kept: How many are kept, at least 2: the first half of them and the newest.

    Returns:
        A sentence for the message of the failure.

    Raises:
        OSError: The record cannot be written.
    """
    parent, name = os.path.split(folder)
    n_first = max_kept // 2
    with _locked(os.path.join(parent, record)) as file:
        known = _read(file)
        kept = [one for one in known["kept"] if os.path.isdir(os.path.join(parent, one))] + [name]
        removed = [kept.pop(n_first) for _ in range(len(kept) - max_kept)]
        known = {
            "failed_calls": known["failed_calls"] + 1,
            "removed_folders": known["removed_folders"] + len(removed),
            "reason": f"max_kept={max_kept}: the first {n_first} and the newest {max_kept - n_first} are kept",
            "kept": kept,
        }
        file.seek(0)
        json.dump(known, file, indent=1)
        file.truncate()
    for one in removed:
        shutil.rmtree(os.path.join(parent, one), ignore_errors=True)
    if len(kept) <= n_first:
        return f"Its folder is kept: {folder!r}."
    sentence = f"Its folder is kept until {max_kept - n_first} more calls fail: {folder!r}"
    if not known["removed_folders"]:
        return f"{sentence}."
    return (
        f"{sentence}; of {known['failed_calls']:,} failed calls, {known['removed_folders']:,} folders are removed "
        f"(max_kept={max_kept})."
    )


class FailedFolders:
    """Keeps the folders of failed calls as asked.

    Args:
        keep: ``"none"``, ``"failed"`` or ``"all"``.
        record: As for ``keep_failed``.
        max_kept: As for ``keep_failed``.
    """

    def __init__(self, keep: str, record: str, max_kept: int) -> None:
        self._keep, self._record, self._max_kept = keep, record, max_kept

    def failed(self, folder: str | os.PathLike[str]) -> tuple[bool, str]:
        """Return whether the folder of a failed call is kept, and a sentence that says so."""
        folder = str(folder)
        if self._keep == "none":
            return False, ""
        if self._keep == "all":
            return True, f"Its folder is kept: {folder!r}."
        try:
            return True, keep_failed(folder, self._record, self._max_kept)
        except OSError as error:
            return False, f"Its folder is not kept: {str(error.filename or folder)!r}: {error.strerror or error}."

    def on_kill(self, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """Return arguments of ``guard`` for the folder of a call whose process may be killed."""
        if self._keep == "failed":
            return {"keep": (str(folder), self._record, self._max_kept)}
        return {"folder": str(folder)} if self._keep == "none" else {}


@contextlib.contextmanager
def _locked(path: str) -> Iterator[TextIO]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o600), "r+", encoding="utf-8") as file:
        ends = time.monotonic() + _LONGEST_WAIT_S
        while not _lock(file):
            if time.monotonic() > ends:
                raise TimeoutError(0, f"another process has locked it for {_LONGEST_WAIT_S:g} s", path)
            time.sleep(0.005)
        yield file


def _lock(file: TextIO) -> bool:
    """Lock a file until it is closed; return False if another has locked it. Without locks nothing is locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system has no locks
    return True


def _read(file: TextIO) -> dict[str, Any]:
    try:
        known = json.load(file)
        counts = {name: int(known[name]) for name in ("failed_calls", "removed_folders")}
        return {**counts, "kept": [os.path.basename(one) for one in known["kept"]]}
    except (ValueError, TypeError, KeyError):  # it is new, or its writer was killed
        return {"failed_calls": 0, "removed_folders": 0, "kept": []}
