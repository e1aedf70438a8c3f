"""A process that says how to continue after this process has ended without a word.

A process that is killed, for example by a system without memory, cannot report that. Neither can
one that Ray ends because the object store of its machine has gone. This script waits until its
parent writes into a pipe or closes it, which happens however the parent ends. It imports nothing
of the project, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

__all__ = ["last_words"]


@contextlib.contextmanager
def last_words(text: str) -> Iterator[None]:
    """Have a line printed on the error stream if this process ends inside the ``with`` block."""
    from distnum.common.cleanup import end_attendant, start_attendant

    if sys.platform == "win32":
        yield
        return
    process = start_attendant(__file__, text)
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == pid:  # not in a copy of this process
            end_attendant(process)


def main() -> None:
    """Wait for the end of the parent or of its work, and print the line if the parent has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not sys.stdin.read():
        with contextlib.suppress(OSError):
            print(sys.argv[1], file=sys.stderr)


if __name__ == "__main__":
    main()
