"""The folder of a Ray session on this machine, which no other user can enter.

Ray lets every user write into the folder that it is given. So it is given a folder inside one of our own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distnum.common.cleanup import end_attendant, start_cleanup
from distnum.common.errors import TrainingError

__all__ = ["SessionFolder", "cleaned_up", "session_folder"]

# The longest path that Ray makes below its folder; the process id is added.
_LONGEST_SOCKET = "/distnum-12345678/ray/session_2000-01-01_00-00-00_000000_/sockets/plasma_store"
_FALLBACKS = ("/tmp", "/var/tmp")
_MOST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107


@dataclass(frozen=True)
class SessionFolder:
    """A folder that only this user can enter.

    Attributes:
        path: The folder.
        made: Its owner, mode and number when it was made.
    """

    path: Path
    made: os.stat_result

    @property
    def ray(self) -> Path:
        """Folder for Ray."""
        return self.path / "ray"

    @property
    def shared(self) -> Path:
        """Folder for what driver and workers share: sockets and mapped files."""
        return self.path / "shared"

    @property
    def token(self) -> Path:
        """File of the token that the session's processes ask each other for."""
        return self.path / "token"

    def check(self) -> None:
        """Check that the folder is still the one that was made, and closed to other users.

        Raises:
            TrainingError: It is not.
        """
        now = os.lstat(self.path)
        if not stat.S_ISDIR(now.st_mode) or not os.path.samestat(now, self.made):
            raise TrainingError(f"The session's folder {str(self.path)!r} has been replaced; it is not used.")
        if hasattr(os, "geteuid") and (now.st_uid != os.geteuid() or now.st_mode & 0o077):
            raise TrainingError(
                f"The session's folder {str(self.path)!r} is open to other users: its mode is "
                f"{stat.S_IMODE(now.st_mode):04o} and its owner {now.st_uid}; it must be 0700 and {os.geteuid()}."
            )


@contextlib.contextmanager
def session_folder() -> Iterator[SessionFolder]:
    """Make the folder of a session, with a new token in it, and remove it at the end.

    Raises:
        TrainingError: No folder can be made.
    """
    path, pid = _make_folder(), os.getpid()
    try:
        folder = SessionFolder(path, os.lstat(path))
        folder.check()
        folder.shared.mkdir(mode=0o700)
        with open(os.open(folder.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        yield folder
    finally:
        if os.getpid() == pid:  # not in a copy of this process
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def cleaned_up(folder: SessionFolder, mark: str) -> Iterator[None]:
    """At the end, or when this process is killed, end the processes with a mark and remove the session's folder.

    Args:
        folder: The folder.
        mark: Text in the environment of the processes.
    """
    cleanup, pid = start_cleanup(mark, str(folder.path)), os.getpid()
    try:
        yield
    finally:
        if cleanup is not None and os.getpid() == pid:
            end_attendant(cleanup)


def _make_folder() -> Path:
    problems = []
    with contextlib.suppress(FileNotFoundError):  # there is no folder for temporary files
        for base in dict.fromkeys([os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), *_FALLBACKS]):
            if not base:
                continue
            real = os.path.realpath(base)
            try:
                problem = _problem(real)
                if problem is None:
                    return Path(tempfile.mkdtemp(prefix="distnum-", dir=real))
            except OSError as error:
                problem = str(error.strerror)
            problems.append(f"{base!r} ({problem})")
    raise TrainingError(
        f"Ray needs a folder for its files, but none can be made in {', '.join(problems) or 'any folder'}. "
        "Set TMPDIR to a folder with a short name that only you can write to, or compute without Ray: --workers 0."
    )


def _problem(base: str) -> str | None:
    """Why a session's folder cannot lie in a folder; None if it can."""
    n_bytes = len(os.fsencode(f"{base}{_LONGEST_SOCKET}{os.getpid()}"))
    if n_bytes > _MOST_SOCKET_BYTES:
        return f"its name is {n_bytes - _MOST_SOCKET_BYTES} bytes too long for sockets"
    if not hasattr(os, "geteuid"):
        return None
    for path in (Path(base), *Path(base).parents):
        at = os.stat(path)
        if at.st_uid not in _trusted_owners():
            return f"{str(path)!r} belongs to another user, who could replace it"
        if at.st_mode & 0o022 and not at.st_mode & stat.S_ISVTX:
            mode = stat.S_IMODE(at.st_mode)
            return f"other users could rename what lies in {str(path)!r}: its mode is {mode:04o} without the sticky bit"
    return None


def _trusted_owners() -> set[int]:
    """Ids of this user and of root."""
    owners = {0, os.geteuid()}
    with contextlib.suppress(OSError, ValueError):
        # In a container without the system's root, that is shown as the user that stands for all unknown ones.
        with open("/proc/self/uid_map", encoding="ascii") as file:
            mapped = {int(line.split()[1]) for line in file}
        if 0 not in mapped:
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii")))
    return owners
