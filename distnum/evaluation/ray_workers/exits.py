"""The status with which C's ``exit`` ends a process, recorded in a file.

Fortran's ``STOP``, C++ and many libraries end a process by ``exit``, of which Python sees nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import TextIO

__all__ = ["CExits"]


class CExits:
    """Writes one byte, the exit status, into an empty file if C's ``exit`` ends this process while it is ``on``.

    The C library writes it without any Python, as ``exit`` may be called by a thread that must not wait for Python's
    global lock, and after the end of Python. Nothing is written where the C library has no ``on_exit``.

    Args:
        file: The file.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file.fileno()
        self._nowhere = self._target = -1
        if sys.platform != "linux":
            return
        library = ctypes.CDLL(None)
        if not hasattr(library, "on_exit"):
            return
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._target = os.dup(self._nowhere)
        library.fdopen.restype = ctypes.c_void_p
        library.setbuf.argtypes = library.on_exit.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        stream = library.fdopen(self._target, b"w")
        library.setbuf(stream, None)
        library.on_exit(ctypes.cast(library.fputc, ctypes.c_void_p), stream)  # calls fputc(status, stream)
        os.register_at_fork(after_in_child=self._stop)

    def on(self) -> None:
        """Record an exit from now on."""
        if self._target >= 0:
            os.dup2(self._file, self._target, inheritable=False)

    def off(self) -> None:
        """Record no exit from now on, and remove what a copy of this process (fork) has written at its end."""
        if self._target >= 0:
            os.dup2(self._nowhere, self._target, inheritable=False)
            with contextlib.suppress(OSError):
                if os.fstat(self._file).st_size:
                    os.ftruncate(self._file, 0)
                    os.lseek(self._file, 0, os.SEEK_SET)

    def _stop(self) -> None:
        """Record nothing any more, in a copy of the process."""
        os.dup2(self._nowhere, self._target, inheritable=False)
        self._target = -1
