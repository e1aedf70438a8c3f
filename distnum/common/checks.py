"""Checks of values: numbers within limits, words, and errors that name the field, the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnum.common.errors import InputError

__all__ = ["Check", "as_int", "checked", "choice", "either", "host_and_port", "optional", "real", "whole"]


@dataclass(frozen=True)
class Check:
    """A check of a field's value.

    Attributes:
        allowed: The allowed values, in words that follow "it must be".
        convert: Returns the value in its type, also from text; raises ``ValueError``, ``TypeError`` or
            ``OverflowError`` if it is not allowed.
    """

    allowed: str
    convert: Callable[[Any], Any]


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def as_int(value: Any) -> int:
    """Return a whole number, also from text or a float such as ``2.0``.

    Raises:
        ValueError, TypeError, OverflowError: The value is no whole number.
    """
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?\d+", value, re.ASCII):  # int() accepts ' 1_0 ' too
            raise ValueError
        return int(value)
    if isinstance(value, (bool, np.bool_)) or int(value) != value:
        raise ValueError
    return int(value)


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the host and the port of an address such as ``head:6379`` or ``ray://head:10001``; None for other text.

    >>> host_and_port("head:6379"), host_and_port("ray://[::1]:10001"), host_and_port("head")
    (('head', 6379), ('::1', 10001), None)
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        return None
    return host.strip("[]"), int(port)


def whole(at_least: int, at_most: int | None = None) -> Check:
    """Return a check for whole numbers within limits."""

    def convert(value: Any) -> int:
        number = as_int(value)
        if number < at_least or (at_most is not None and number > at_most):
            raise ValueError
        return number

    upper = f" and at most {at_most:,}" if at_most is not None else ""
    return Check(f"a whole number of at least {at_least}{upper}", convert)


def real(above: float | None = None, at_least: float | None = None, at_most: float | None = None) -> Check:
    """Return a check for finite numbers within limits."""

    def convert(value: Any) -> float:
        if isinstance(value, (bool, np.bool_)) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
            raise ValueError
        number = float(value)
        too_small = (above is not None and number <= above) or (at_least is not None and number < at_least)
        too_large = at_most is not None and number > at_most
        if not math.isfinite(number) or too_small or too_large:
            raise ValueError
        return number

    limits = [
        f"above {above:g}" if above is not None else "",
        f"of at least {at_least:g}" if at_least is not None else "",
        f"and at most {at_most:g}" if at_most is not None else "",
    ]
    return Check(" ".join(["a finite number", *filter(None, limits)]), convert)


def choice(*names: str) -> Check:
    """Return a check for one of these words."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Check(f"one of {', '.join(names)}", convert)


def either(word: str, check: Check) -> Check:
    """Return a check for one word, or what another check allows."""
    return Check(f"'{word}' or {check.allowed}", lambda value: word if value == word else check.convert(value))


def optional(check: Check) -> Check:
    """Return a check for None, or what another check allows."""
    return Check(check.allowed, lambda value: None if value is None else check.convert(value))


def checked(name: str, value: Any, check: Check) -> Any:
    """Return the converted value of a field.

    Raises:
        InputError: The value is not allowed. The message names the field, the value, and what is allowed.

    >>> checked("steps", "12", whole(1))
    12
    """
    try:
        return check.convert(value)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {_shown(value)}; it must be {check.allowed}.") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
