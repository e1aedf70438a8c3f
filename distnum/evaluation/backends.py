"""Chooses who evaluates: what the options ``workers``, ``address`` and ``store`` mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from distnum.common.checks import checked, whole
from distnum.common.errors import InputError
from distnum.evaluation.in_process import InProcess
from distnum.evaluation.mapped import Mapped, OnExecutor
from distnum.evaluation.outcomes import Backend

__all__ = ["Workers", "backend_of"]

Workers = Any
"""0, a number of workers, ``"auto"``, ``"2:8"``, an ``Evaluator``, a ``concurrent.futures`` executor, or a ``map``."""

_ALLOWED = (
    "it must be 0 (this process), a number of workers, 'auto', a range such as '2:8', an Evaluator, a "
    "concurrent.futures executor, or a function like map"
)


@contextlib.contextmanager
def backend_of(workers: Workers, address: str | None = None, store: Any = None) -> Iterator[Backend]:
    """The backend for these options; workers that are started here end with the context.

    Args:
        workers: Who evaluates. A ``Backend`` is used as it is.
        address: Address of a Ray cluster on which a number of workers is started.
        store: A folder or URI where evaluations are kept; None keeps none.

    Raises:
        InputError: An option has another value, or an address is given that nothing would connect to.
    """
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(_without_store(workers, address))
        if store is not None:
            from distnum.evaluation.stores.backend import stored

            backend = stack.enter_context(stored(backend, store))
        yield backend


@contextlib.contextmanager
def _without_store(workers: Workers, address: str | None) -> Iterator[Backend]:
    if isinstance(workers, str):
        if workers != "auto" and not re.fullmatch(r"[0-9]+:[0-9]+", workers):
            raise InputError(f"workers is {workers!r:.60}; {_ALLOWED}.")
        number: Any = workers
    elif isinstance(workers, Executor) or callable(workers) or hasattr(workers, "evaluate"):
        if address is not None:
            raise InputError(
                f"address is {address!r}, but workers is {workers!r:.60}, which has its own; leave one out."
            )
        yield _existing(workers)
        return
    else:
        number = _number(workers)
    if number == 0:
        if address is not None:
            raise InputError(
                f"address is {address!r}, but workers is 0, which evaluates in this process; give a number."
            )
        yield InProcess()
        return
    from distnum.evaluation.evaluator import Evaluator

    with Evaluator(number, address=address) as evaluator:
        yield evaluator.backend


def _existing(workers: Any) -> Backend:
    if isinstance(workers, Executor):
        return OnExecutor(workers)
    if hasattr(workers, "backend"):  # an Evaluator
        backend: Backend = workers.backend
        return backend
    return workers if hasattr(workers, "evaluate") else Mapped(workers)


def _number(workers: Any) -> int:
    try:
        return int(checked("workers", workers, whole(0, 100_000)))
    except InputError:
        raise InputError(f"workers is {workers!r:.60}; {_ALLOWED}.") from None
