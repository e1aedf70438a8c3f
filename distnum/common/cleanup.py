"""Clears up after a Ray session whose driver was killed.

Ray's servers die with the driver, but two agents of theirs wait a minute for a server that
is gone, and its folder stays. This script, run beside the driver on Linux, waits until the
driver closes its end of a pipe, as it does however it ends. Then it kills what is left of
the session's processes, and removes the folder. They are known by a mark in their
environment, looked for while they start: some write their title over it later. The script
imports nothing of the project, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

__all__ = ["start_cleanup"]

_GRACE_S = 1.0

# How often to look for processes: while Ray starts, and later.
_STARTING_S, _QUICK_S, _SLOW_S = 15.0, 0.2, 5.0


def start_cleanup(mark: str, folder: str) -> subprocess.Popen[bytes] | None:
    """Watch over the processes with this text in their environment; ``communicate`` ends the watch."""
    if not sys.platform.startswith("linux"):
        return None
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark, folder], stdin=subprocess.PIPE, start_new_session=True
    )


def start_time(pid: int) -> str:
    """When a running process began, in clock ticks since boot; empty if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        state, *fields = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


def marked(mark: bytes) -> dict[int, str]:
    """The processes that carry the mark: their ids and when they began."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # It has just ended, or is another user's.
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read():
                    found[int(name)] = start_time(int(name))
    return found


def watch(mark: bytes) -> dict[int, str]:
    """Wait for the end of the driver; returns the marked processes that there have been."""
    began = time.monotonic()
    found: dict[int, str] = {}
    while True:
        pause_s = _QUICK_S if time.monotonic() < began + _STARTING_S else _SLOW_S
        ended = bool(select.select([sys.stdin], [], [], pause_s)[0])
        found |= marked(mark)
        if ended:
            return found


def main() -> None:
    """Wait for the end of the driver, then clear up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark, folder = os.fsencode(sys.argv[1]), sys.argv[2]
    found = watch(mark)
    deadline = time.monotonic() + _GRACE_S
    while left := [pid for pid, began in found.items() if began and start_time(pid) == began]:
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        found |= marked(mark)
    deadline = time.monotonic() + _GRACE_S
    while os.path.exists(folder) and time.monotonic() < deadline:  # something may still have been put there
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
