"""The file of a store of evaluations to which a process appends.

Each process appends to a file of its own, which it has made, so several processes can use a store at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from datetime import datetime, timezone
from secrets import token_hex

from distnum.storage.files import lock
from distnum.storage.plain_files import open_plain
from distnum.storage.segment_folders import Folder

__all__ = ["Segment"]
log = logging.getLogger("distnum")

# At a URI, a file of this size is complete, and another one is begun.
_COPIED_BYTES = 4 * 2**20


class Segment:
    """A new file of a store, to which this process appends records.

    Each record is handed to the system at once. A thread has the system write it to the disk within a second, and
    copies the file to the URI within a few seconds. While nothing can be written, records wait in memory, with one
    warning.

    Args:
        folder: The folder of the store.

    Attributes:
        name: Name of the file.
        size: Bytes of the records so far, those in memory included.
        process: The process that appends.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        now = datetime.now(timezone.utc)
        self.name = f"evaluations-{now:%Y%m%dT%H%M%S%f}-{token_hex(8)}.1"
        self.size = 0
        self.process = os.getpid()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = open_plain(folder.path / self.name, flags, 0o600)
        self._held = lock(folder.path / self.name, os.O_RDWR)
        self._written = 0
        self._waiting: list[bytes] = []
        self._guard = threading.Lock()
        self._changed, self._ended = threading.Event(), threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._flush_now_and_then, daemon=True, name="distnum-store")
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the next record belongs into another file."""
        return self._folder.is_remote and self.size >= _COPIED_BYTES

    def append(self, record: bytes) -> int:
        """Append a record, and return its position."""
        with self._guard:
            position = self.size
            self._waiting.append(record)
            self.size += len(record)
            self._write()
        self._changed.set()
        return position

    def _write(self) -> None:
        while self._waiting and self._file >= 0:
            content = self._waiting[0]
            try:
                if os.fstat(self._file).st_size != self._written:  # an exception, as of Ctrl-C, came in between
                    os.ftruncate(self._file, self._written)
                while content:
                    content = content[os.write(self._file, content) :]
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._written)  # no part of a record stays
                self._warn(error)
                return
            self._written += len(self._waiting.pop(0))

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "store %s cannot be written: %s. Evaluations go on, and are kept in memory until it can be.",
                *(self._folder.name, error.strerror or error),
            )

    def _flush_now_and_then(self) -> None:
        while not self._ended.is_set():
            self._changed.wait()
            self._ended.wait(self._folder.flush_s)
            self._changed.clear()
            if not self._flush():
                self._changed.set()  # try again

    def _flush(self) -> bool:
        """Write to the disk and copy what is new, and return whether all of it is safe."""
        with self._guard:
            self._write()
        try:
            os.fsync(self._file)
            self._folder.copy(self.name)
        except OSError as error:
            self._warn(error)
            return False
        return not self._waiting

    def close(self) -> None:
        """Write all records to the disk and to the URI, and close the file."""
        if self._file < 0 or os.getpid() != self.process:
            return
        self._ended.set()
        self._changed.set()
        self._thread.join()
        self._flush()
        if self._waiting:
            log.warning("store %s lacks the last %d records.", self._folder.name, len(self._waiting))
        for descriptor in (self._file, self._held):
            if descriptor is not None:
                os.close(descriptor)
        self._file = -1
