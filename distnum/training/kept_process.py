"""Keeps this process as it is while a function of the user is tried out in it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

__all__ = ["process_kept"]


@contextlib.contextmanager
def process_kept() -> Iterator[None]:
    """Restore the environment, the working directory, the standard streams and the handlers of signals at the end.

    Ray, which starts next, depends on them.
    """
    environment, streams = dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if in_main_thread else {}
    try:
        folder = os.getcwd()
    except OSError:  # it has been removed
        folder = ""
    try:
        yield
    finally:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.stdin, sys.stdout, sys.stderr = streams
        if folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
