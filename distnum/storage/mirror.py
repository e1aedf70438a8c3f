"""Places that are not on this machine: runs mirrored to a URI, and data fetched from one.

A run with ``--out s3://...`` is kept in a folder here, of which everything finished is put to the
URI: each file whole, checkpoints before the rows that lie beyond them. What can be reached is
what fsspec knows: ``s3://`` (with s3fs), ``gs://`` (with gcsfs), ``file://``, ``memory://``, ...
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from time import sleep, time
from typing import Any
from uuid import uuid4

from distnum.common.cleanup import start_cleanup
from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.remote import TEMPORARY_PREFIX, is_alive, open_file_system, this_machine

__all__ = ["Mirror"]

_LOCK = ".lock"

# A process that holds a place says so every so many seconds; one that has not for so long is gone.
_BEAT_S, _GONE_S = 20.0, 90.0

# After taking a place, look again: another process may have done the same at the same moment.
_SETTLE_S = 1.0

# File systems that have no folders to be made; to "make" one may make a bucket.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2"}


class Mirror:
    """A folder here whose files are kept at a URI too.

    Args:
        uri: where.
        field: what the user calls it.

    Attributes:
        folder: the one here, empty at first; it is removed by ``close``.
    """

    def __init__(self, uri: str, field: str = "out") -> None:
        self.uri = uri.rstrip("/")
        self._field = field
        self._fs, self._root = open_file_system(self.uri, field)
        _remove_forsaken()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{this_machine()}-{os.getpid()}-"))
        self._sent: dict[str, tuple[int, int]] = {}
        self._holder = uuid4().hex
        self._stop: threading.Event | None = None
        self._reaper: Any = None

    # --- holding it ---------------------------------------------------------------

    def take(self) -> None:
        """Have the place for this process alone, until ``close``.

        Raises:
            InputError: another process has it, or nothing can be written there.
        """
        now = self._lock()
        if now is not None and not self._is_gone(now):
            raise InputError(f"run {self.uri!r} is in use: another distnum process is training in it.")
        try:
            self._beat()
            sleep(_SETTLE_S)
        except Exception as error:
            raise InputError(f"{self._field} is {self.uri!r}, which cannot be written: {first_line(error)}.") from None
        now = self._lock()
        if now is None or now.get("holder") != self._holder:
            raise InputError(f"run {self.uri!r} is in use: another distnum process is training in it.")
        # Removes the folder here if this process is killed.
        self._reaper = start_cleanup(f"DISTNUM_MIRROR={self._holder}", str(self.folder))
        self._stop = threading.Event()
        threading.Thread(target=self._keep_beating, args=(self._stop,), daemon=True).start()

    def _check_ours(self) -> None:
        """Refuse to write where another process has taken over, because this one was not heard of for long.

        Raises:
            OSError: one has, or the place is out of reach.
        """
        if self._stop is None:
            return
        try:
            lock = self._lock()
        except InputError as error:
            raise OSError(None, str(error).rstrip("."), self.uri) from None
        if lock is None or lock.get("holder", self._holder) != self._holder:
            raise OSError(None, "another process has taken this run over", self.uri)

    def _lock(self) -> dict[str, Any] | None:
        """What the lock says; None if there is none, nothing if it is torn."""
        try:
            return dict(json.loads(self._fs.cat_file(f"{self._root}/{_LOCK}")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return {}
        except Exception as error:
            raise InputError(f"{self._field} is {self.uri!r}, which cannot be read: {first_line(error)}.") from None

    @staticmethod
    def _is_gone(lock: dict[str, Any]) -> bool:
        if lock.get("host") == this_machine() and isinstance(lock.get("pid"), int) and not is_alive(lock["pid"]):
            return True
        return not isinstance(lock.get("time"), (int, float)) or time() - lock["time"] > _GONE_S

    def _beat(self) -> None:
        told = {"holder": self._holder, "host": this_machine(), "pid": os.getpid(), "time": time()}
        self._put(_LOCK, json.dumps(told).encode())

    def _keep_beating(self, stop: threading.Event) -> None:
        while not stop.wait(_BEAT_S):
            with contextlib.suppress(Exception):  # what cannot be written is met, and said, where files are
                self._check_ours()
                self._beat()

    # --- files --------------------------------------------------------------------

    def names(self) -> list[str]:
        """The files there, by their names below the place."""
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(self._root)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise InputError(f"{self._field} is {self.uri!r}, which cannot be read: {first_line(error)}.") from None
        # Some file systems tell the path with a slash or a protocol before it.
        names = [str(path)[str(path).index(self._root) + len(self._root) + 1 :] for path in found]
        if odd := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
            raise InputError(f"{self._field} is {self.uri!r}, where {odd[0]!r} lies, which is no file of a run.")
        return [name for name in names if not name.split("/")[-1].startswith(".")]

    def fetch(self) -> None:
        """Bring all files there into the folder here."""
        for name in self.names():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                continue  # it has just been replaced
            except Exception as error:
                raise InputError(f"{self.uri}/{name} cannot be read: {first_line(error)}.") from None
            self._sent[name] = _state(path)

    def publish(self) -> None:
        """Put what has changed here, and remove there the checkpoints and slices that were removed here.

        Raises:
            OSError: it cannot be.
        """
        here: dict[str, Path] = {}
        for folder, _, files in os.walk(self.folder):  # which does not mind a folder that goes
            for path in (Path(folder) / file for file in files):
                name = path.relative_to(self.folder).as_posix()
                if not any(part.startswith(".") for part in name.split("/")):
                    here[name] = path
        gone = [name for name in self._sent if name not in here]
        if lost := [name for name in gone if "/" not in name]:  # which no run removes
            raise OSError(None, f"its copy here, {self.folder}, has lost {lost[0]}", self.uri)
        self._check_ours()
        try:
            # First checkpoints, so that rows never lie beyond all of them; the result, which says that
            # the run is complete, last.
            for name in sorted(here, key=lambda name: (not name.startswith("checkpoints/"), name == "result.json")):
                try:
                    state = _state(here[name])
                    content = here[name].read_bytes() if self._sent.get(name) != state else None
                except FileNotFoundError:
                    if "/" in name:
                        continue  # slices of a step that is done by now
                    raise
                if content is not None:
                    self._put(name, content)
                    self._sent[name] = state
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._root}/{name}")
                del self._sent[name]
        except Exception as error:
            raise OSError(None, first_line(error), self.uri) from error

    def _put(self, name: str, content: bytes) -> None:
        """One file, whole or not at all on disks and object stores."""
        path = f"{self._root}/{name}"
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        if not protocols & _OBJECT_STORES:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if "file" in protocols:
            # Object stores show an object when it is whole; a file system shows a file as it grows.
            head, _, tail = path.rpartition("/")
            aside = f"{head}/.{tail}.{self._holder}.part"
            self._fs.pipe_file(aside, content)
            os.replace(aside, path)
        else:
            self._fs.pipe_file(path, content)

    def keep_folder(self) -> Path | None:
        """Keep what is here beyond ``close``, where it could not be put to its place; returns its folder then."""
        kept = self.folder.with_name(self.folder.name.replace(TEMPORARY_PREFIX, "distnum-kept-"))
        try:
            shutil.copytree(self.folder, kept)
        except OSError:  # it is gone, or there is no room
            shutil.rmtree(kept, ignore_errors=True)
            return None
        return kept

    def close(self) -> None:
        """Give the place back, and remove the folder here."""
        if self._stop is not None:
            self._stop.set()
            with contextlib.suppress(Exception):  # it is given up by its age then
                if (self._lock() or {}).get("holder") == self._holder:
                    self._fs.rm_file(f"{self._root}/{_LOCK}")
            self._stop = None
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._reaper is not None:
            self._reaper.communicate()
            self._reaper = None


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def _remove_forsaken() -> None:
    """Remove folders of processes that were killed."""
    mine = f"{TEMPORARY_PREFIX}{this_machine()}-"
    for path in Path(tempfile.gettempdir()).glob(f"{mine}*"):
        pid = path.name.removeprefix(mine).partition("-")[0]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
