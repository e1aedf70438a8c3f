"""The folder of one command, and the removal of all that belongs to it, also after the command was killed.

All files of a command are in its folder. Its processes have the folder in their environment, its network namespaces and
interfaces have names that begin with ``network_name`` of the folder, and its disks are mounted in it. A lock on a file
of the folder lasts as long as the process of the command, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import psutil

from distnum.common.cleanup import marked

if sys.platform != "win32":  # tests import this module everywhere
    import fcntl

# Not the folder for temporary files, whose path may be too long for the sockets of Ray.
PLACE = Path("/tmp")
PREFIX = "dn-chaos-"
VARIABLE = "DISTNUM_CHAOS"
_LOCK = "owner"
# Seconds for a killed training to remove its Ray session.
_SESSION_S = 10.0
# Seconds after which processes that cannot be killed are given up.
_KILL_S = 10.0


@contextlib.contextmanager
def owned_folder() -> Iterator[Path]:
    """Make the folder of this command; at the end, however the block ends, all that belongs to it is removed.

    Folders of commands that were killed are removed first.
    """
    remove_left()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
    # The lock exists before the name that others look for.
    with (folder / "new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / _LOCK)
        os.environ[VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            del os.environ[VARIABLE]
            remove(folder)


def remove_left() -> None:
    """Remove what killed commands of this user have left."""
    for folder in PLACE.glob(f"{PREFIX}*"):
        lock = _lock_of_dead(folder)
        if lock is not None:
            with lock:
                print(f"removed: {folder} and its processes, left by a command that was killed", flush=True)
                remove(folder)


def _lock_of_dead(folder: Path) -> TextIO | None:
    """Lock the folder of a command that has ended; None if it runs, or the folder is another user's."""
    with contextlib.suppress(OSError):  # it is being made, or another command removes it
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return None
        lock = (folder / _LOCK).open("r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return None
        return lock
    return None


def remove(folder: Path) -> None:
    """Kill the processes that belong to a folder, and remove its namespaces, interfaces, disks and files."""
    mark = os.fsencode(f"{VARIABLE}={folder}\0")
    # A training that was killed removes its Ray session by processes of its own, which must not be killed before.
    _kill(pid for pid in marked(mark) if b"tests.chaos.driver" in _command(pid))
    _wait(lambda: not any(b"/distnum/common/" in _command(pid) for pid in marked(mark)), _SESSION_S)
    _wait(lambda: not _kill(_processes(folder, mark)), _KILL_S)
    _remove_network(network_name(folder))
    for line in Path("/proc/mounts").read_text().splitlines():
        if (mounted := Path(line.split()[1])).is_relative_to(folder):
            subprocess.run(["umount", "-l", str(mounted)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def network_name(folder: Path) -> str:
    """Return the beginning of the names of network namespaces and interfaces, at most 12 characters."""
    return f"dn{folder.name.removeprefix(PREFIX)}"


def _processes(folder: Path, mark: bytes) -> set[int]:
    """Return the ids of the processes that belong to a folder, without this one."""
    found = set(marked(mark))
    for pid in list(found):
        with contextlib.suppress(psutil.Error):  # workers of Ray overwrite their environment with their title
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    for namespace in _namespaces(network_name(folder)):
        done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
        found |= {int(pid) for pid in done.stdout.split()}
    return found - {os.getpid()}


def _namespaces(name: str) -> list[str]:
    place = Path("/run/netns")
    return sorted(path.name for path in place.glob(f"{name}*")) if place.is_dir() else []


def _remove_network(name: str) -> None:
    for namespace in _namespaces(name):
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
    interfaces = Path("/sys/class/net")
    for interface in sorted(interfaces.glob(f"{name}*")) if interfaces.is_dir() else []:
        subprocess.run(["ip", "link", "del", interface.name], capture_output=True, check=False)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _kill(pids: Iterable[int]) -> int:
    """Kill processes, and return how many there were."""
    n = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            n += 1
    return n


def _wait(happened: Callable[[], bool], seconds: float) -> None:
    """Wait until something has happened, at most some seconds."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
