"""Text for users and files: durations, remarks, JSON, first lines of errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["duration", "first_line", "json_text", "print_remark"]


def duration(seconds: float) -> str:
    """Return a duration as short text.

    >>> duration(0.0134), duration(42.2), duration(4000)
    ('13 ms', '42 s', '1 h 7 min')
    """
    if seconds < 0.95:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours / 24:.0f} days"


def print_remark(text: str) -> None:
    """Print a line on the error stream."""
    print(text, file=sys.stderr, flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return standard JSON, in which numbers that are not finite become null.

    >>> json_text({"loss": float("nan")})
    '{"loss": null}'
    """
    return json.dumps(_finite_or_none(value), indent=indent, allow_nan=False)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite_or_none(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its final period; the error's type if there is no message.

    >>> first_line(OSError("No route to host.")), first_line(TimeoutError())
    ('No route to host', 'TimeoutError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
