"""What the fields of a configuration may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.checks import Check, as_int, real, whole
from distnum.networks.activations import CUSTOM, get_activation

__all__ = ["ACTIVATION", "ADDRESS", "RESOURCES", "SIZES", "TEXT", "WORKERS", "resources_of", "workers_range"]

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
        return value  # it comes beside the configuration
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
    """The least and the most workers that a field ``workers`` allows; None for as many as suit the cluster.

    >>> workers_range("2:8"), workers_range(4), workers_range("auto")
    ((2, 8), (4, 4), (1, None))
    """
    if workers == "auto":
        return 1, None
    least, colon, most = str(workers).partition(":")
    return as_int(least), as_int(most if colon else least)


def _address(value: Any) -> str:
    text = _text(value)
    host, _, port = text.removeprefix("ray://").rpartition(":")
    if text not in ("auto", "local") and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError
    return text


def _resources(value: Any) -> str:
    """A text such as ``GPU=1,spot=0.1``, from a dict too."""
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={amount:g}" for name, amount in value.items())
    resources_of(_text(value))
    return str(value)


def resources_of(resources: str | None) -> dict[str, float]:
    """What a field ``resources`` asks for, by name.

    >>> resources_of("GPU=1,spot=0.1")
    {'GPU': 1.0, 'spot': 0.1}
    """
    found: dict[str, float] = {}
    for item in resources.split(",") if resources else ():
        name, _, amount = item.partition("=")
        number = real(above=0).convert(amount)
        if not name.strip() or name.strip() in found or name.strip() == "CPU":
            raise ValueError
        found[name.strip()] = number
    return found


RESOURCES = Check("NAME=NUMBER,... of what Ray calls resources, but for CPU, each number above 0", _resources)
ADDRESS = Check("HOST:PORT of a Ray cluster's head, or auto", _address)
WORKERS = Check("'auto' or a whole number of at least 0 and at most 100,000, or two of them as in 2:8", _workers)
TEXT = Check("a text that is not empty", _text)
SIZES = Check(f"whole numbers of at least 1 and at most {_MOST_UNITS:,}, separated by commas, or 'none'", _sizes)
ACTIVATION = Check("the name of an activation", _activation)
