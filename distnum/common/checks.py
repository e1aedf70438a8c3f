"""What a value may be: whole and real numbers within limits, words, and values checked against such a kind."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnum.common.errors import InputError

__all__ = ["Check", "as_int", "checked", "choice", "either", "optional", "real", "whole"]


@dataclass(frozen=True)
class Check:
    """What a field may be: ``convert`` gives the value, from text too, or raises."""

    allowed: str
    convert: Callable[[Any], Any]


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def as_int(value: Any) -> int:
    """A whole number, from text too.

    Raises:
        ValueError, TypeError, OverflowError: it is none.
    """
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?\d+", value, re.ASCII):  # int() also takes ' 1_0 '
            raise ValueError
        return int(value)
    if isinstance(value, (bool, np.bool_)) or int(value) != value:
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)):
        raise ValueError
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def whole(at_least: int, at_most: int | None = None) -> Check:
    """Whole numbers within limits."""

    def convert(value: Any) -> int:
        number = as_int(value)
        if number < at_least or (at_most is not None and number > at_most):
            raise ValueError
        return number

    upper = f" and at most {at_most:,}" if at_most is not None else ""
    return Check(f"a whole number of at least {at_least}{upper}", convert)


def real(above: float | None = None, at_least: float | None = None, at_most: float | None = None) -> Check:
    """Finite numbers within limits."""

    def convert(value: Any) -> float:
        number = _float(value)
        if above is not None and not number > above:
            raise ValueError
        if at_least is not None and not number >= at_least:
            raise ValueError
        if at_most is not None and not number <= at_most:
            raise ValueError
        return number

    limits = [
        f"above {above:g}" if above is not None else "",
        f"of at least {at_least:g}" if at_least is not None else "",
    ]
    limits.append(f"and at most {at_most:g}" if at_most is not None else "")
    return Check(" ".join(["a finite number", *[limit for limit in limits if limit]]), convert)


def choice(*names: str) -> Check:
    """One of some words."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Check(f"one of {', '.join(names)}", convert)


def either(word: str, kind: Check) -> Check:
    """One word, or what ``kind`` allows."""
    return Check(f"'{word}' or {kind.allowed}", lambda value: word if value == word else kind.convert(value))


def optional(kind: Check) -> Check:
    """None, or what ``kind`` allows."""
    return Check(kind.allowed, lambda value: None if value is None else kind.convert(value))


def checked(name: str, value: Any, kind: Check) -> Any:
    """The value, converted.

    Raises:
        InputError: it is not allowed; the message names it, the field, and what is.
    """
    try:
        return kind.convert(value)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {_shown(value)}; it must be {kind.allowed}.") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
