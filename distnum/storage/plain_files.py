"""Open plain files only: no link, pipe, device or folder that somebody has put in a file's place.

The files of a run may have been made by others. A link among them could lead to any file of the user, and a named
pipe would block whoever opens it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["above_streams", "absolute", "append_to", "check_plain", "open_plain", "read_plain"]

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Without O_NONBLOCK, a named pipe would be waited for; plain files ignore it.
_SAFELY = _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Return a descriptor of a plain file.

    Args:
        path: The file.
        flags: As for ``os.open``. A file that is appended to must have no second name, a hard link.
        mode: Permissions of a file that is made, as far as the umask leaves them.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    if not _NO_FOLLOW and path.is_symlink():  # Windows
        raise _refused(path, "it is a symbolic link, which is not followed")
    try:
        descriptor = above_streams(os.open(path, flags | _SAFELY, mode))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise _refused(path, "it is a symbolic link, which is not followed") from None
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise _refused(path, "it is not a plain file") from None
        raise
    status = os.fstat(descriptor)
    problem = ""
    if stat.S_ISDIR(status.st_mode):
        problem = "it is a folder"
    elif not stat.S_ISREG(status.st_mode):
        problem = "it is not a plain file"
    elif flags & os.O_APPEND and status.st_nlink > 1:
        problem = "it has another name, a hard link; replace it by a copy of it"
    if problem:
        os.close(descriptor)
        raise _refused(path, problem)
    return descriptor


def above_streams(descriptor: int) -> int:
    """Return a descriptor of the same file that is not one of the standard streams.

    If a function of the user has closed such a stream, the next file that is opened gets its number, and with it all
    that is printed.
    """
    if descriptor > 2 or os.name != "posix":
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def absolute(path: Path) -> Path:
    """Return the absolute path of a file or folder; the same path if the working directory has been removed.

    The code of users, which runs during a training, may change the working directory.
    """
    try:
        return path.absolute()
    except OSError:
        return path


def _refused(path: Path, reason: str) -> OSError:
    return OSError(errno.EINVAL, reason, str(path))


def check_plain(path: Path) -> None:
    """Check that a path is a plain file that can be read.

    Raises:
        OSError: It is not.
    """
    os.close(open_plain(path))


def read_plain(path: Path) -> bytes:
    """Return the content of a plain file.

    Raises:
        OSError: It cannot be read, or is no plain file.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read()


def append_to(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a plain file, which is made if it is missing, to append to it; ``buffering`` as for ``open``.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    return os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", buffering)
