"""Runs a command in a folder, and ends it with all processes that it has started."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from distnum.common.cleanup import marked
from distnum.evaluation.programs.attendant import guard, release

__all__ = ["STDERR", "STDOUT", "run_command"]

STDOUT, STDERR = "stdout.txt", "stderr.txt"
"""Files in the folder of a command with its output."""

_LONGEST_POLL_S = 3600.0


def run_command(
    command: str | Sequence[str],
    folder: Path,
    *,
    stdin: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_kill: Mapping[str, Any] | None = None,
) -> int | None:
    """Run a command in a folder, with its output in ``stdout.txt`` and ``stderr.txt`` there.

    Processes that it leaves behind are killed, also when this call is interrupted, or this process is killed. On Linux,
    if it fails, these are all that it has started; else those of its process group.

    Args:
        command: A program and its arguments, or a text for the shell.
        folder: Its current directory.
        stdin: File for its standard input; None for an empty one.
        env: Variables to add to the environment.
        timeout: Seconds after which it is killed.
        on_kill: Arguments of ``guard`` that say what becomes of the folder if this process is killed meanwhile.

    Returns:
        Its exit code, negative for a signal; None if its time was over.

    Raises:
        OSError: It cannot be started.
    """
    name = f"DISTNUM_PROGRAM_{secrets.token_hex(8)}"
    key = guard(mark=f"{name}=1", **(on_kill or {}))
    process, code = None, None
    try:
        with (
            open(stdin or os.devnull, "rb") as given,
            open(folder / STDOUT, "wb") as stdout,
            open(folder / STDERR, "wb") as stderr,
        ):
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(env or {}), name: "1"},
                stdin=given,
                stdout=stdout,
                stderr=stderr,
                shell=isinstance(command, str),
                start_new_session=True,
            )
        guard(key=key, group=process.pid)
        if _wait(process, timeout):
            code = _end(process)
        return code
    finally:
        if code is None and process is not None:
            _end(process)
        if code != 0:  # a program that was killed or has failed may have left others
            _end_marked(f"{name}=1".encode())
        release(key)


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> bool:
    """Wait for the end of a process; return False if it has not ended after ``timeout`` seconds."""
    try:
        # Popen.wait with a time limit looks only every 50 ms. And a process that is not yet waited for keeps its id,
        # so that no other group can have it when the rest of its group is killed.
        descriptor = os.pidfd_open(process.pid) if sys.platform == "linux" else None
    except OSError:  # an old kernel, or a sandbox
        descriptor = None
    if descriptor is None:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ends = None if timeout is None else monotonic() + timeout
        while True:
            left = _LONGEST_POLL_S if ends is None else min(ends - monotonic(), _LONGEST_POLL_S)
            if poll.poll(max(left, 0) * 1000):
                return True
            if ends is not None and monotonic() >= ends:
                return False
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill what is left of a process and its group, and return its exit code."""
    with contextlib.suppress(OSError):  # nothing is left
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            _kill_tree(process.pid)
    return process.wait()


def _kill_tree(pid: int) -> None:
    """Kill a process and its descendants, on systems without process groups."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                one.kill()


def _end_marked(mark: bytes) -> None:
    """Kill the processes that have left the group, known by their environment."""
    if not sys.platform.startswith("linux"):
        return
    seen: set[int] = set()
    # A killed process cannot start others; those that it had started are found in the next round.
    while new := set(marked(mark)) - seen:
        for pid in new:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        seen |= new
