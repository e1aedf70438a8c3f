"""A process that cleans up after a driver that was killed.

When a driver is killed, Ray's servers end with it, but two of their agents wait a minute for a server, and the
session's folder stays. This script runs next to the driver, on Linux. It waits until the driver writes into a pipe or
closes its end of it, which happens however the driver ends. Then it kills the session's remaining processes and removes
the folder.

The processes are known by a text in their environment. Some overwrite it with their title later, so the script looks
for them while they start. It imports nothing of the project, so that it starts in milliseconds.
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

__all__ = ["end_attendant", "start_attendant", "start_cleanup"]

_GRACE_S = 1.0

# Seconds after the start with frequent searches for processes, and the pauses between searches then and later.
_STARTING_S, _SHORT_PAUSE_S, _LONG_PAUSE_S = 15.0, 0.2, 5.0

_started: list[subprocess.Popen[bytes]] = []


def _close_pipes() -> None:
    """Close the pipes in a copy of the driver: it may live longer than the driver."""
    for process in _started:
        if process.stdin is not None:
            process.stdin.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_pipes)


def start_cleanup(mark: str, folder: str) -> subprocess.Popen[bytes] | None:
    """Start the cleanup process.

    Args:
        mark: Text in the environment of the processes to kill.
        folder: The folder to remove.

    Returns:
        The process, for ``end_attendant``, which lets it clean up. None on systems other than Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    return start_attendant(__file__, mark, folder)


def start_attendant(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python script that reads a pipe from this process until this process ends."""
    command = [sys.executable, "-I", "-S", script, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    _started.append(process)
    return process


def end_attendant(process: subprocess.Popen[bytes]) -> None:
    """Send an attendant its message, and wait for its end."""
    # A message, as the pipe may stay open in a copy of this process.
    process.communicate(b"end")
    _started.remove(process)


def start_time(pid: int) -> str:
    """Return the start of a running process in clock ticks since boot; an empty string if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        state, *fields = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


def marked(mark: bytes) -> dict[int, str]:
    """Return the ids and start times of the processes with this text in their environment."""
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # A process that has just ended, or of another user, cannot be read.
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read():
                    processes[int(name)] = start_time(int(name))
    return processes


def watch(mark: bytes) -> dict[int, str]:
    """Wait for the end of the driver, and return the ids and start times of all marked processes seen until then."""
    started = time.monotonic()
    processes: dict[int, str] = {}
    while True:
        pause_s = _SHORT_PAUSE_S if time.monotonic() < started + _STARTING_S else _LONG_PAUSE_S
        ended = bool(select.select([sys.stdin], [], [], pause_s)[0])
        processes |= marked(mark)
        if ended:
            return processes


def main() -> None:
    """Wait for the end of the driver, then kill the marked processes and remove the folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark, folder = os.fsencode(sys.argv[1]), sys.argv[2]
    processes = watch(mark)
    deadline = time.monotonic() + _GRACE_S
    while left := [pid for pid, started in processes.items() if started and start_time(pid) == started]:
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        processes |= marked(mark)
    deadline = time.monotonic() + _GRACE_S
    while os.path.exists(folder) and time.monotonic() < deadline:  # ending processes may still write there
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
