"""Handlers of the signals that ask a process to end.

Used by the start of the command line, which imports it before anything else: it must not import more than this.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["handled_signals"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def handled_signals(handle: Callable[[int, Any], Any] = signal.default_int_handler) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP in the ``with`` block.

    A signal that is ignored (``nohup``) stays ignored.

    Args:
        handle: Called with the signal's number and the stack frame; by default it raises ``KeyboardInterrupt``.
    """
    previous = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
