"""Options of ``distnum.train`` for a Python function: those of ``differentiate``, and the fields of ``Config``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from typing import Any

import numpy as np

from distnum.common.errors import InputError
from distnum.differentiation.options import Options, Request
from distnum.differentiation.stencils.schemes import SCHEMES, get_scheme
from distnum.training.config import Config

__all__ = ["DERIVATIVE_OPTIONS", "identity_of_options", "split_options"]

_FIELDS = {field.name for field in fields(Config)}
_NOT_IN_TRAINING = {
    "f0": "the loss at the parameters changes with every step",
    "sparsity": "a loss is one number",
}

DERIVATIVE_OPTIONS = set(Options.__annotations__) - _FIELDS - {"progress", *_NOT_IN_TRAINING}
"""Options of ``differentiate`` that ``train`` takes for functions in addition to the fields of ``Config``."""


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of ``Config``, and options of ``differentiate`` that a configuration does not hold.

    Raises:
        InputError: There is no such option, or it has no meaning in a training.
    """
    for name, reason in _NOT_IN_TRAINING.items():
        if name in options:
            raise InputError(f"{name} is given, but {reason}; leave it out.")
    known = _FIELDS | DERIVATIVE_OPTIONS
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}."
            raise InputError(f"{name!r} is no option of a training; {hint}")
    of_config = {name: value for name, value in options.items() if name in _FIELDS}
    of_derivative = {name: value for name, value in options.items() if name not in _FIELDS}
    if "scheme" in options or "order" in options:
        name = get_scheme(options.get("scheme", "central"), of_derivative.pop("order", None)).name
        (of_config if name in SCHEMES else of_derivative)["scheme"] = name
        if name not in SCHEMES:
            of_config.pop("scheme", None)
    h = options.get("h", "auto")
    if h is None:
        of_config["h"] = "auto"
    elif isinstance(h, (dict, list, tuple)) or np.ndim(h) > 0 or (isinstance(h, str) and h == "adaptive"):
        of_derivative["h"] = of_config.pop("h")
    if not isinstance(options.get("workers", 0), (int, np.integer, str)):
        of_derivative["workers"] = of_config.pop("workers")
    return of_config, of_derivative


def identity_of_options(request: Request) -> str:
    """Options that decide the bits of a gradient and are not in a configuration, as text; "" if all have defaults.

    Arrays are represented by a part of their checksum.
    """
    parts = {"rel_step": request.rel_step, "x_scale": request.x_scale, "noise": request.noise}
    parts |= {"lower": request.lower, "upper": request.upper}
    if request.scheme.name not in SCHEMES:
        parts["scheme"] = request.scheme.name
    if request.h is not None and np.ndim(request.h) > 0 and np.ptp(request.h) > 0:
        parts["h"] = request.h
    if isinstance(request.h, str):
        parts["h"] = request.h
    if len(request.indices) < len(request.x):
        parts["indices"] = request.indices
    if request.on_error != "raise":
        parts["on_error"] = request.on_error
    return ", ".join(f"{name}={_as_text(value)}" for name, value in sorted(parts.items()) if value is not None)


def _as_text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{len(value)} numbers {sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]}"
    return str(value)
