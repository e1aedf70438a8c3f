"""Ends the processes of a Ray session whose driver was killed.

Ray's servers die with the driver, but two agents of theirs wait a minute for a server that
is gone. This script, run beside the driver on Linux, waits until the driver closes its end
of a pipe, as it does however it ends, and kills what is then left of the processes it was
told about. It imports nothing of the project, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

__all__ = ["start_reaper"]

_GRACE_S = 1.0


def start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot: with its number it names one process for good."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[19]
    return ""


def start_reaper(pids: list[int]) -> subprocess.Popen[bytes] | None:
    """Watch over these processes; closing the returned process's standard input ends the watch."""
    if not sys.platform.startswith("linux"):
        return None
    named = [f"{pid}:{start_time(pid)}" for pid in pids]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *named], stdin=subprocess.PIPE, start_new_session=True
    )


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    named = [one.split(":") for one in sys.argv[1:]]
    deadline = time.monotonic() + _GRACE_S
    while any(start_time(int(pid)) == began for pid, began in named) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid, began in named:
        if began and start_time(int(pid)) == began:
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main()
