"""Text for users and files: durations, remarks, JSON, first lines of errors."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = ["duration", "first_line", "json_text", "print_remark", "printable"]

# Unicode categories whose characters do something to a terminal or to the order of the text, instead of being shown:
# control, format (such as right-to-left overrides), line and paragraph separators, surrogates.
_NOT_SHOWN = ("Cc", "Cf", "Zl", "Zp", "Cs")

# In messages of libraries: user name and password of a URL, and a query, as that of a signed link.
_USER = re.compile(
    r"(?<=://)[^\s/@'\"]*:[^\s/@'\"]*@|(?<=http://)[^\s/@'\"]+@|(?<=https://)[^\s/@'\"]+@", re.IGNORECASE
)
_QUERY = re.compile(r"([?#])[^\s?#'\"<>()]*=[^\s'\"<>()]*")


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


def printable(text: str, keep: str = "") -> str:
    r"""Return text in which control characters are escaped, so that it cannot act on a terminal.

    Names and messages may come from other people: a job of a cluster, an archive, a file of a run.

    Args:
        text: The text.
        keep: Control characters that are kept, such as a newline.

    >>> printable("loss\x1b[2J\u202e\n")
    'loss\\x1b[2J\\u202e\\n'
    """

    def shown(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep or unicodedata.category(character) not in _NOT_SHOWN:
            return character
        return character.encode("unicode_escape").decode("ascii")

    return text if text.isprintable() else re.sub(r"[^ -~]", shown, text)


def print_remark(text: str) -> None:
    """Print lines on the error stream, with other control characters escaped; nothing if it cannot be written.

    No work ends because the user, or a function of the user's, has closed the stream.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            print(printable(text, keep="\n"), file=sys.stderr, flush=True)


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

    Passwords and queries of URLs are left out, as a server may redirect to a signed link.

    >>> first_line(OSError("No route to host.")), first_line(TimeoutError())
    ('No route to host', 'TimeoutError')
    >>> first_line(OSError("403, url='https://host/x?Signature=0a1b'"))
    "403, url='https://host/x?...'"
    """
    lines = str(error).strip().splitlines()
    line = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return _QUERY.sub(r"\1...", _USER.sub("...@", line))
