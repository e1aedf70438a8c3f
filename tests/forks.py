"""Calls functions in a copy (fork) of this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["in_copy", "outcome"]


def outcome(action: Callable[[], object]) -> str:
    """Call a function; return its result as text, or its exception's class and message."""
    try:
        return str(action())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def in_copy(action: Callable[[], object]) -> str:
    """Call a function in a copy of this process; return its ``outcome``.

    The copy is killed after a minute.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os.write(writing, outcome(action).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        answer = stream.read()
    assert os.waitpid(pid, 0)[1] == 0, "the copy of the process died or did not end"
    return answer
