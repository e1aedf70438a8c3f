"""Options of ``distnum.train`` for a Python function: those of ``differentiate``, and the fields of ``Config``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from distnum.common.errors import InputError
from distnum.differentiation.options import Options, Request
from distnum.differentiation.stencils.schemes import SCHEMES, get_scheme
from distnum.evaluation.stores.digests import digest
from distnum.training.config import Config

__all__ = ["DERIVATIVE_OPTIONS", "NETWORK_FIELDS", "identity_of_options", "split_options"]

_FIELDS = {field.name for field in fields(Config)}
_NOT_IN_TRAINING = {
    "f0": "the loss at the parameters changes with every step",
    "sparsity": "a loss is one number",
    "dtype": "the parameters have one already",
    "step_deadline": "a loss function has timeout, the seconds after which one evaluation is ended",
}

NETWORK_FIELDS = {"data", "hidden", "activation", "loss", "init", "init_std", "method"}
"""Fields of a configuration that do not apply to a Python function."""

DERIVATIVE_OPTIONS = set(Options.__annotations__) - _FIELDS - {"progress", *_NOT_IN_TRAINING}
"""Options of ``differentiate`` that ``train`` takes for functions in addition to the fields of ``Config``."""


def split_options(options: Mapping[str, Any], scheme: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of ``Config``, and options of ``differentiate`` that a configuration does not hold.

    Args:
        options: The options of a training.
        scheme: The scheme of its configuration.

    Raises:
        InputError: There is no such option, or it has no meaning in a training of a function.
    """
    for name, reason in _NOT_IN_TRAINING.items():
        if name in options:
            raise InputError(f"{name} is given, but {reason}; leave it out.")
    known = (_FIELDS - NETWORK_FIELDS - set(_NOT_IN_TRAINING)) | DERIVATIVE_OPTIONS
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}."
            raise InputError(f"{name!r} is no option of a training of a function; {hint}")
    of_config = {name: value for name, value in options.items() if name in _FIELDS}
    of_derivative = {name: value for name, value in options.items() if name not in _FIELDS}
    if "scheme" in options or "order" in options:
        of_configuration = "central" if scheme.startswith("central") else scheme
        name = get_scheme(options.get("scheme", of_configuration), of_derivative.pop("order", None)).name
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
        for name in ("address", "resources"):
            if of_config.get(name) is not None:
                raise InputError(f"{name} is {of_config[name]!r}, but workers has its own; leave one out.")
    return of_config, of_derivative


def identity_of_options(request: Request, given: Collection[str]) -> dict[str, str]:
    """Options that decide the bits of a gradient and are not in a configuration, as texts by name.

    Arrays and other objects are represented by a part of a checksum.

    Args:
        request: What is differentiated.
        given: Names of the options that are not in the configuration.
    """
    values = {"rel_step": request.rel_step, "x_scale": request.x_scale, "noise": request.noise, "h": request.h}
    values |= {"bounds": (request.lower, request.upper), "indices": request.indices}
    values |= {"args": request.call.args, "kwargs": dict(request.call.kwargs), "scheme": request.scheme.name}
    identity = {}
    for name in sorted(set(given) & set(values)):
        try:
            identity[name] = values[name] if isinstance(values[name], str) else digest(values[name]).hex()[:12]
        except InputError:  # it has no bits that could be compared
            identity[name] = "given"
    return identity
