"""What Ray prints, and the standard streams that it needs in a program that has none, or has closed them."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, TextIO

__all__ = ["logged_messages", "usable_streams"]

log = logging.getLogger("distnum")


@cache
def _nowhere() -> TextIO:
    """A stream that is written to nowhere. It stays open, as ``faulthandler`` may use it to the end."""
    return open(os.devnull, "w")


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Give Ray, which does not start without them, standard streams if the program has none or has closed them."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    missing = {name: one for name, one in streams.items() if one is None or getattr(one, "closed", False)}
    for name in missing:
        setattr(sys, name, _nowhere())
    try:
        yield
    finally:
        for name, stream in missing.items():
            if getattr(sys, name) is _nowhere():
                setattr(sys, name, stream)


@contextlib.contextmanager
def logged_messages() -> Iterator[None]:
    """Log at DEBUG what Ray would print on lost processes, with lines of its own logs."""
    try:
        worker: Any = importlib.import_module("ray._private.worker")
        printing = worker.print_to_stdstream
    except (ImportError, AttributeError):
        yield
        return

    def log_message(data: Any, *_: Any, **__: Any) -> None:
        log.debug("Ray: %s", data)

    worker.print_to_stdstream = log_message
    try:
        yield
    finally:
        worker.print_to_stdstream = printing
