"""A folder on this machine that one process uses at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from distnum.common.errors import InputError
from distnum.storage.files import lock
from distnum.storage.plain_files import absolute

__all__ = ["LocalFolder"]
_LOCK = ".lock"


class LocalFolder:
    """A folder for a run; it offers the same methods as ``Mirror``.

    Args:
        folder: The path.

    Attributes:
        folder: The absolute path, which stays the same when this process changes its working directory.
        location: The path as it is given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = absolute(folder), folder
        self._lock: int | None = None
        self._created: list[Path] = []

    def acquire(self) -> None:
        """Lock the folder, which is made if it is missing, until ``close``.

        Raises:
            InputError: Another process has locked it.
            OSError: It cannot be made or written.
        """
        paths = (self.folder / _LOCK, self.folder, *self.folder.parents)
        self._created = [path for path in paths if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(self.folder / _LOCK, os.O_WRONLY | os.O_CREAT)
        except BlockingIOError:
            self._created = []  # the other process made them
            raise InputError(
                f"run {str(self.location)!r} is in use: another distnum process is training in it."
            ) from None

    def names(self) -> list[str]:
        """Return the names of what is in the folder, without the lock; its own name if it is a file."""
        if not self.folder.exists():
            return []
        if not self.folder.is_dir():
            return [self.folder.name]
        return [path.name for path in self.folder.iterdir() if path.name != _LOCK]

    def fetch(self) -> None:
        """Do nothing: the files are here."""

    def publish(self) -> None:
        """Do nothing: the files are where they belong."""

    def close(self, publish: bool = False) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Release the lock, and remove it and the folders that ``acquire`` made, as far as they are empty."""
        self.close()
        for path in self._created:
            with contextlib.suppress(OSError):  # it holds something of somebody else
                path.unlink() if path.name == _LOCK else path.rmdir()
