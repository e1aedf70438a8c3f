"""Runs at a URI: a local folder whose finished files are copied there.

The URI never holds half a file. Checkpoints are copied before the rows of the same moment; rows of later steps may
be there, and are removed when the run is continued. Any fsspec file system can be used: ``s3://`` (with s3fs),
``gs://`` (with gcsfs), ``file://``, ``memory://``, ...
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from distnum.common.cleanup import start_cleanup
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line
from distnum.storage.remote import (
    content_of,
    of_a_disk,
    open_file_system,
    put_file,
    remove_abandoned_folders,
    temporary_prefix,
)
from distnum.storage.remote_lock import RemoteLock

__all__ = ["Mirror"]
log = logging.getLogger("distnum")


class Mirror:
    """A temporary local folder whose files are copied to a URI; it offers the same methods as ``LocalFolder``.

    Args:
        uri: The URI of the run.

    Attributes:
        folder: The local folder, empty at first; ``close`` removes it.
        location: The URI.
    """

    def __init__(self, uri: str) -> None:
        self.location = uri.rstrip("/")
        self._fs, self._root = open_file_system(self.location, "out")
        try:
            remove_abandoned_folders()
            self.folder = Path(tempfile.mkdtemp(prefix=temporary_prefix()))
        except OSError as error:
            raise InputError(
                f"out is {self.location!r}, which needs a temporary folder here, but none can be made: "
                f"{error.strerror or error}; set TMPDIR to a folder that can be written."
            ) from None
        self._sent: dict[str, tuple[int, int]] = {}
        self._id = uuid4().hex
        self._lock = RemoteLock(self.location, self._fs, self._root, self._id)
        self._cleanup: Any = None

    def acquire(self) -> None:
        """Lock the URI for this process, until ``close``.

        Raises:
            InputError: Another process has locked it, or nothing can be written there.
        """
        self._lock.acquire()
        # Removes the local folder if this process is killed.
        self._cleanup = start_cleanup(f"DISTNUM_MIRROR={self._id}", str(self.folder))

    def names(self) -> list[str]:
        """Return the names of the files at the URI, relative to it, without hidden ones.

        Raises:
            InputError: They cannot be listed, or a name leads out of the folder.
        """
        try:
            self._fs.invalidate_cache()
            paths = self._fs.find(self._root)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise InputError(f"out is {self.location!r}, which cannot be read: {first_line(error)}.") from None
        # Some file systems put a slash or a protocol before the path.
        names = [str(path)[str(path).index(self._root) + len(self._root) + 1 :] for path in paths]
        if odd := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
            raise InputError(f"out is {self.location!r}, which holds {odd[0]!r}; a run has no such file.")
        if linked := [name for name in names if self._is_linked(name)]:
            raise InputError(
                f"out is {self.location!r}, where a symbolic link leads to {linked[0]!r}; links in a run are not "
                "followed."
            )
        return [name for name in names if not name.split("/")[-1].startswith(".")]

    def _is_linked(self, name: str) -> bool:
        """Return whether a link leads to a file, so that it may lie outside the run."""
        if not of_a_disk(self._fs):
            return False
        return os.path.realpath(f"{self._root}/{name}") != os.path.join(os.path.realpath(self._root), name)

    def fetch(self) -> None:
        """Copy all files at the URI into the local folder.

        Raises:
            InputError: A file cannot be read.
        """
        for name in self.names():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(content_of(self._fs, f"{self._root}/{name}"))
            except FileNotFoundError:
                continue  # its run has just removed it
            except Exception as error:
                raise InputError(f"{self.location}/{name} cannot be read: {first_line(error)}.") from None
            self._sent[name] = _time_and_size(path)

    def publish(self) -> None:
        """Copy new and changed files to the URI, and remove there what was removed from subfolders here.

        Raises:
            TrainingError: A file cannot be written, or the lock or a local file was lost.
        """
        try:
            self._publish()
        except OSError as error:
            raise TrainingError(
                f"{self.location} cannot be written: {error.strerror}. What was written before is intact; continue "
                f"with: distnum resume {self.location}"
            ) from None

    def _publish(self) -> None:
        local: dict[str, Path] = {}
        for folder, _, files in os.walk(self.folder):  # unlike rglob, it accepts that a folder vanishes
            for path in (Path(folder) / file for file in files):
                name = path.relative_to(self.folder).as_posix()
                if not any(part.startswith(".") for part in name.split("/")):
                    local[name] = path
        removed = [name for name in self._sent if name not in local]
        if lost := [name for name in removed if "/" not in name]:  # no run removes a file outside its subfolders
            raise OSError(None, f"its local copy, {self.folder}, has lost {lost[0]}", self.location)
        self._lock.check()
        try:
            # Checkpoints first: rows without their checkpoint would be computed again. The result last: it marks the
            # run as complete.
            for name in sorted(local, key=lambda name: (not name.startswith("checkpoints/"), name == "result.json")):
                try:
                    state = _time_and_size(local[name])
                    content = local[name].read_bytes() if self._sent.get(name) != state else None
                except FileNotFoundError:
                    if "/" in name:
                        continue  # a part of a step that is finished by now
                    raise
                if content is not None:
                    self._put(name, content)
                    self._sent[name] = state
            for name in removed:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._root}/{name}")
                del self._sent[name]
        except Exception as error:
            raise OSError(None, first_line(error), self.location) from error

    def _put(self, name: str, content: bytes) -> None:
        put_file(self._fs, f"{self._root}/{name}", content)

    def close(self, publish: bool = False) -> None:
        """Release the lock, and remove the local folder.

        Args:
            publish: Whether to publish first. If that fails, the local files are copied to a folder that is kept, which
                a warning names.
        """
        if publish:
            try:
                self.publish()
            except TrainingError as error:
                kept = self._kept_copy()
                log.warning("%s%s", error, f" The local files are kept in {kept}." if kept else "")
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._cleanup is not None:
            self._cleanup.communicate()
            self._cleanup = None

    def discard(self) -> None:
        self.close()

    def _kept_copy(self) -> Path | None:
        """Copy the local folder to one that ``close`` does not remove, and return its path; None if that fails."""
        try:
            kept = Path(tempfile.mkdtemp(prefix="distnum-kept-", dir=self.folder.parent))
        except OSError:
            return None
        try:
            shutil.copytree(self.folder, kept, dirs_exist_ok=True)
        except OSError:  # the folder was removed, or the disk is full
            shutil.rmtree(kept, ignore_errors=True)
            return None
        return kept


def _time_and_size(path: Path) -> tuple[int, int]:
    """Return what changes when the file is written."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size
