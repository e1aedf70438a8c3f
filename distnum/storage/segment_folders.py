"""The folder of a store of evaluations, here or at a URI, and the names of the files in it.

There is one file for each process that has written, see ``segments``. Files at a URI have copies in a temporary folder
here, in which they are read and grow.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.files import lock, write_whole
from distnum.storage.plain_files import absolute, open_plain
from distnum.storage.remote import (
    content_of,
    of_a_disk,
    open_file_system,
    put_file,
    remove_abandoned_folders,
    temporary_prefix,
)
from distnum.storage.uris import is_uri

__all__ = ["Folder", "RemoteFolder", "open_folder"]
log = logging.getLogger("distnum")

_NAME = re.compile(r"evaluations-[0-9]{8}T[0-9]{12}-[0-9a-f]{16}\.1")
_ENDING = re.compile(r"evaluations-\S+\.([0-9]+)")

# An empty file that is written to find out whether files can be.
_MARKER = ".store"

# Seconds between two times that new records are flushed to the disk, and copied to a URI.
_FLUSH_S, _COPY_S = 1.0, 5.0


def open_folder(location: str | Path, new: bool) -> Folder:
    """Return the folder of a store.

    Args:
        location: A folder, or a URI.
        new: Whether to make a local folder that is missing.

    Raises:
        InputError: It cannot be used, is missing, or holds other files than those of a store.
    """
    if is_uri(location):
        fs, root = open_file_system(str(location), "store")
        folder = Folder(Path(root), str(location)) if of_a_disk(fs) else RemoteFolder(fs, root, str(location))
    else:
        folder = Folder(Path(location), str(location))
    try:
        folder.prepare(new)
    except OSError as error:
        raise InputError(f"store is {folder.name!r}, which cannot be used: {error.strerror or error}.") from None
    return folder


class Folder:
    """A local folder with the files of a store.

    Attributes:
        path: The absolute path.
        name: The location as the user gave it.
    """

    flush_s = _FLUSH_S
    is_remote = False

    def __init__(self, path: Path, name: str) -> None:
        if not name:
            raise InputError("store is ''; it must name a folder or a URI.")
        self.path, self.name = absolute(path), name

    def prepare(self, new: bool) -> None:
        """Make the folder if it is missing and ``new``, and check that it holds nothing else.

        Raises:
            InputError: It is missing, or holds something else.
            OSError: It cannot be made or read.
        """
        if not new and not self.path.exists():
            raise InputError(f"store is {self.name!r}, which is not found.")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new and not os.access(self.path, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self._check_names([name for name in os.listdir(self.path) if not name.startswith(".")])

    def _check_names(self, names: list[str]) -> None:
        for name in names:
            ending = _ENDING.fullmatch(name)
            if ending and int(ending[1][:9]) > 1:
                raise InputError(f"store is {self.name!r}, which holds {name!r}, of a newer version of distnum.")
        if names and not any(map(_NAME.fullmatch, names)):
            raise InputError(
                f"store is {self.name!r}, which holds {min(names)!r}, but no evaluations; choose another folder."
            )

    def names(self) -> list[str]:
        """Return the names of the files with evaluations, oldest first."""
        return sorted(filter(_NAME.fullmatch, os.listdir(self.path)))

    def open(self, name: str) -> BinaryIO:
        """Open a file to read it.

        Raises:
            OSError: It cannot be opened, or is no plain file.
        """
        return os.fdopen(open_plain(self.path / name), "rb")

    def lock(self, name: str) -> int | None:
        """Lock a file, so that it can be replaced, and return what ``files.lock`` returns.

        Raises:
            InputError: A process still writes it.
            OSError: It cannot be opened.
        """
        try:
            return lock(self.path / name, os.O_RDWR)
        except BlockingIOError:
            raise InputError(f"store {self.name!r} is in use: another process is writing to it.") from None

    def replace(self, name: str, content: bytes) -> None:
        """Replace a file as a whole, or remove it if there is no content.

        Raises:
            OSError: It cannot be written.
        """
        if content:
            write_whole(self.path / name, content)
            (self.path / name).chmod(0o600)
        else:
            (self.path / name).unlink()

    def copy(self, name: str) -> None:
        """Make sure that a file is where it belongs; nothing to do here."""

    def close(self) -> None:
        """Release what the folder uses."""


class RemoteFolder(Folder):
    """The files of a store at a URI, with copies in a temporary folder here, ``path``."""

    flush_s = _COPY_S
    is_remote = True

    def __init__(self, fs: Any, root: str, uri: str) -> None:
        self._fs, self._root = fs, root
        remove_abandoned_folders()
        super().__init__(Path(tempfile.mkdtemp(prefix=temporary_prefix())), uri)
        self._not_copied: set[str] = set()
        self._process = os.getpid()

    def prepare(self, new: bool) -> None:
        """Copy the files at the URI to the local folder; if ``new``, make sure that files can be written there."""
        try:
            self._fetch(new)
            if new:
                self._put(_MARKER, b"")
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def _fetch(self, new: bool) -> None:
        try:
            self._fs.invalidate_cache()
            paths = [str(path) for path in self._fs.ls(self._root, detail=False)]
        except FileNotFoundError:
            paths = []
        except Exception as error:
            raise InputError(f"store is {self.name!r}, which cannot be read: {first_line(error)}.") from None
        if not paths and not new:
            raise InputError(f"store is {self.name!r}, which is not found.")
        names = [path.rstrip("/").rpartition("/")[2] for path in paths]
        self._check_names([name for name in names if not name.startswith(".")])
        for name in filter(_NAME.fullmatch, names):
            try:
                content = content_of(self._fs, f"{self._root}/{name}")
            except FileNotFoundError:
                continue  # a longer one has just taken its place
            except Exception as error:
                raise InputError(f"{self.name}/{name} cannot be read: {first_line(error)}.") from None
            (self.path / name).write_bytes(content)

    def replace(self, name: str, content: bytes) -> None:
        """Replace a file here and at the URI, or remove it if there is no content."""
        super().replace(name, content)
        if content:
            self._put(name, content)
            return
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except Exception as error:
            raise OSError(None, first_line(error), self.name) from None

    def _put(self, name: str, content: bytes) -> None:
        try:
            put_file(self._fs, f"{self._root}/{name}", content)
        except Exception as error:
            raise OSError(None, first_line(error), self.name) from None

    def copy(self, name: str) -> None:
        """Copy a file to the URI.

        Raises:
            OSError: It cannot be written there.
        """
        self._not_copied.add(name)
        self._put(name, (self.path / name).read_bytes())
        self._not_copied.discard(name)

    def close(self) -> None:
        """Remove the local folder; what could not be copied stays in a folder that a warning names."""
        if os.getpid() != self._process:
            return
        if self._not_copied:
            with contextlib.suppress(OSError):
                kept = Path(tempfile.mkdtemp(prefix="distnum-kept-"))
                for name in sorted(self._not_copied):
                    shutil.move(self.path / name, kept / name)
                log.warning(
                    "some evaluations could not be copied to %s; they are kept in %s. Add them later with: "
                    "distnum evaluations %s --merge %s",
                    *(self.name, kept, self.name, kept),
                )
        shutil.rmtree(self.path, ignore_errors=True)
