"""Handlers of the signals that ask a process to end.

Used by the start of the command line, which imports it before anything else: it must not import more than this.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["handled_signals"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def handled_signals(handle: Callable[[int, Any], Any] = signal.default_int_handler) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP in the ``with`` block.

    A signal that is ignored (``nohup``) stays ignored, and one that is handled outside of Python is left to that
    handler. In threads other than the main one nothing changes: Python runs handlers in the main thread only.

    Args:
        handle: Called with the signal's number and the stack frame; by default it raises ``KeyboardInterrupt``.
    """
    previous: dict[int, Any] = {}
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):
            with suppress(ValueError):  # raised in other threads
                signal.signal(number, handle)
                previous[number] = handler
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
