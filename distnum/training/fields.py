"""Dataclasses with checked fields, and what the fields of a configuration may be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from distnum.common.checks import Check, as_int, checked, host_and_port, real, whole
from distnum.common.errors import InputError
from distnum.networks.activations import CUSTOM, get_activation

__all__ = [
    "ACTIVATION",
    "ADDRESS",
    "RESOURCES",
    "SIZES",
    "TEXT",
    "WORKERS",
    "CheckedFields",
    "checked_field",
    "resources_of",
    "workers_range",
]

F = TypeVar("F", bound="CheckedFields")


def checked_field(check: Check, help: str, default: Any, metavar: str | None = None, group: str = "") -> Any:
    """A dataclass field with a check, and help for the command line."""
    return field(default=default, metadata={"check": check, "help": help, "metavar": metavar, "group": group})


@dataclass(frozen=True)
class CheckedFields:
    """A frozen dataclass whose fields are made by ``checked_field``: values are checked and converted."""

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, checked(item.name, getattr(self, item.name), item.metadata["check"]))

    def with_changes(self: F, changes: Mapping[str, Any], source: str = "") -> F:
        """A copy with some fields changed; ``source`` is put before error messages.

        Raises:
            InputError: There is no such field, or a value is not allowed.
        """
        names = [item.name for item in fields(self)]
        for name in changes:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; the fields are {', '.join(names)}."
                raise InputError(f"{source}{name!r} is not a field of a configuration{hint}")
        try:
            return replace(self, **changes)
        except InputError as error:
            raise InputError(f"{source}{error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, texts and lists, without those that are None."""
        pairs = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in pairs if v is not None}


_MOST_UNITS = 1_000_000
_MOST_WORKERS = 100_000


def _text(value: Any) -> str:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError
    return str(value)


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = () if value.strip() in ("", "none") else value.split(",")
    elif isinstance(value, (int, np.integer)):
        value = (value,)
    elif not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError
    convert = whole(1, _MOST_UNITS).convert
    return tuple(convert(size) for size in value)


def _activation(value: Any) -> str:
    if isinstance(value, str) and value.startswith(CUSTOM):
        return value  # the activation itself is passed separately
    return get_activation(value).name


def _workers(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and ":" in value:
        least, most = workers_range(value)
        if most is None or not 1 <= least <= most <= _MOST_WORKERS:
            raise ValueError
        return value if least < most else least
    return int(whole(0, _MOST_WORKERS).convert(value))


def workers_range(workers: int | str) -> tuple[int, int | None]:
    """The smallest and the largest number of workers that a field ``workers`` allows; None for no limit.

    >>> workers_range("2:8"), workers_range(4), workers_range("auto")
    ((2, 8), (4, 4), (1, None))
    """
    if workers == "auto":
        return 1, None
    least, colon, most = str(workers).partition(":")
    return as_int(least), as_int(most if colon else least)


def _address(value: Any) -> str:
    text = _text(value)
    if text not in ("auto", "local") and host_and_port(text) is None:
        raise ValueError
    return text


def _resources(value: Any) -> str:
    """A text such as ``GPU=1,spot=0.1``, from a dict too."""
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={amount:g}" for name, amount in value.items())
    resources_of(_text(value))
    return str(value)


def resources_of(resources: str | None) -> dict[str, float]:
    """The amounts in a field ``resources``, by name.

    >>> resources_of("GPU=1,spot=0.1")
    {'GPU': 1.0, 'spot': 0.1}
    """
    amounts: dict[str, float] = {}
    for item in resources.split(",") if resources else ():
        name, _, amount = item.partition("=")
        number = real(above=0).convert(amount)
        if not name.strip() or name.strip() in amounts or name.strip() == "CPU":
            raise ValueError
        amounts[name.strip()] = number
    return amounts


RESOURCES = Check("NAME=NUMBER,... with names of Ray resources other than CPU, and numbers above 0", _resources)
ADDRESS = Check("HOST:PORT of a Ray cluster's head, or auto", _address)
WORKERS = Check("'auto' or a whole number of at least 0 and at most 100,000, or two of them as in 2:8", _workers)
TEXT = Check("a text that is not empty", _text)
SIZES = Check(f"whole numbers of at least 1 and at most {_MOST_UNITS:,}, separated by commas, or 'none'", _sizes)
ACTIVATION = Check("the name of an activation", _activation)
