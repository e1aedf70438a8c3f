"""Runs a differentiation from its options to its result, and warns of what is not settled."""

from __future__ import annotations

import contextlib
import sys
import warnings
from time import perf_counter

from distnum.differentiation.derivative import Derivative
from distnum.differentiation.options import Request
from distnum.differentiation.procedure import Procedure
from distnum.differentiation.rounds import Rounds
from distnum.differentiation.sparse.procedure import SparseProcedure
from distnum.differentiation.summary import DerivativeWarning
from distnum.evaluation.backends import backend_of
from distnum.evaluation.outcomes import Backend

__all__ = ["derive", "derived"]


def derive(request: Request, full: bool = True, warn: bool = True) -> Derivative:
    """The derivative that is requested.

    Args:
        request: What is differentiated, and how.
        full: Whether to keep errors, steps, and the table of evaluations.
        warn: Whether to warn of entries that are not settled.
    """
    folders = contextlib.nullcontext() if request.folders is None else request.folders
    with folders, backend_of(request.workers, request.address, request.store) as backend:
        derivative = derived(request, backend, full)
    if warn and not derivative.success:
        warnings.warn(derivative.message, DerivativeWarning, stacklevel=_user_level())
    return derivative


def derived(request: Request, backend: Backend, full: bool) -> Derivative:
    """The derivative that is requested, evaluated by a backend."""
    began = perf_counter()
    rounds = Rounds(request, backend, keep_table=full)
    procedure = (Procedure if request.sparsity is None else SparseProcedure)(request, rounds, full)
    procedure.run()
    return procedure.result(perf_counter() - began)


def _user_level() -> int:
    """Number of frames from the caller of this function to the first outside of this package, for warnings."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("distnum."):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    return level
