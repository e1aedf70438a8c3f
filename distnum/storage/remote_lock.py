"""A lock at a URI: a file that its holder renews, so that the lock of a lost process expires."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from time import monotonic, sleep, time
from typing import Any

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.remote import content_of, is_alive, put_file, this_machine

__all__ = ["RemoteLock"]

# Seconds between two renewals, and until a lock that was not renewed expires.
_RENEW_S, _EXPIRY_S = 20.0, 90.0

# Seconds to wait before checking that no other process wrote the lock at the same moment.
_SETTLE_S = 1.0


class RemoteLock:
    """The lock of a run at a URI.

    Args:
        uri: The URI of the run.
        fs: The fsspec file system.
        root: The path in it.
        holder: A name that no other process uses.
    """

    def __init__(self, uri: str, fs: Any, root: str, holder: str) -> None:
        self._uri = uri
        self._fs = fs
        self._path = f"{root}/.lock"
        self._holder = holder
        self._stop: threading.Event | None = None

    def acquire(self) -> None:
        """Take the lock, and renew it on a thread until ``release``.

        Raises:
            InputError: Another process holds it, or nothing can be written there.
        """
        in_use = InputError(f"run {self._uri!r} is in use: another distnum process is training in it.")
        content = self._read()
        if content is not None and not _has_expired(content) and self._is_renewed(content):
            raise in_use
        try:
            self._write()
            sleep(_SETTLE_S)
        except Exception as error:
            raise InputError(f"out is {self._uri!r}, which cannot be written: {first_line(error)}.") from None
        if (self._read() or {}).get("holder") != self._holder:
            raise in_use
        self._stop = threading.Event()
        threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()

    def _is_renewed(self, content: dict[str, Any]) -> bool:
        """Return whether a lock that has not expired is renewed by its holder.

        A time in the future would never expire. As clocks may differ, such a lock counts if its content changes within
        the time in which a holder renews it twice.
        """
        written = _time_of(content)
        if written is None or written - time() <= _EXPIRY_S:
            return True
        deadline = monotonic() + 2 * _RENEW_S
        while monotonic() < deadline:
            sleep(min(1.0, _RENEW_S / 4))
            now = self._read()
            if now != content:
                return now is not None
        return False

    def check(self) -> None:
        """Check that no other process has taken an acquired lock over, as it may after the lock expired.

        Raises:
            OSError: One has, or the lock cannot be read.
        """
        if self._stop is None:
            return
        try:
            content = self._read()
        except InputError as error:
            raise OSError(None, str(error).rstrip("."), self._uri) from None
        if content is None or content.get("holder", self._holder) != self._holder:
            raise OSError(None, "another process has taken this run over", self._uri)

    def release(self) -> None:
        """Remove the lock if this process holds it."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
            with contextlib.suppress(Exception):  # else it expires
                if (self._read() or {}).get("holder") == self._holder:
                    self._fs.rm_file(self._path)

    def _read(self) -> dict[str, Any] | None:
        """Return the content of the lock file; None if there is none, an empty dict if it is damaged."""
        try:
            return dict(json.loads(content_of(self._fs, self._path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):
            return {}
        except Exception as error:
            raise InputError(f"out is {self._uri!r}, which cannot be read: {first_line(error)}.") from None

    def _write(self) -> None:
        content = {"holder": self._holder, "host": this_machine(), "pid": os.getpid(), "time": time()}
        put_file(self._fs, self._path, json.dumps(content).encode())

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(_RENEW_S):
            with contextlib.suppress(Exception):  # writing the run's files reports what is wrong
                self.check()
                self._write()


def _has_expired(content: dict[str, Any]) -> bool:
    """Whether the holder is known to have ended, or has not renewed the lock for long."""
    pid, written = content.get("pid"), _time_of(content)
    if content.get("host") == this_machine() and type(pid) is int and not is_alive(pid):
        return True
    return written is None or time() - written > _EXPIRY_S


def _time_of(content: dict[str, Any]) -> float | None:
    """Return the time in a lock; None if it holds no finite number there."""
    written = content.get("time")
    try:
        return float(written) if isinstance(written, (int, float)) and math.isfinite(written) else None
    except OverflowError:
        return None
