"""Finished evaluations of a long step of a function, kept on the disk until the step is done."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from distnum.common.errors import InputError
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Backend, Limits, Outcomes
from distnum.evaluation.points import Points

if TYPE_CHECKING:
    from distnum.evaluation.stores.backend import StoredBackend

__all__ = ["KeptEvaluations"]

log = logging.getLogger("distnum")

# Steps that take less than these seconds are not kept: the next one may not be longer.
_LONG_S = 5.0
# Seconds between two reports that something was written.
_WRITTEN_EVERY_S = 15.0


class KeptEvaluations:
    """Keeps the evaluations of the current step, so that a crash of the driver loses only those in flight.

    The first step of a process is kept, and those after a step that was long.

    Args:
        folder: Folder of a run for what is unfinished; made when it is needed.
        written: Called now and then when evaluations have been written.
    """

    def __init__(self, folder: Path, written: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._written = written
        self._wanted = self._has_key = True

    @contextlib.contextmanager
    def step(self, backend: Backend, call: FunctionCall) -> Iterator[Backend]:
        """A backend that keeps its evaluations until this context ends without an exception, or after a short time.

        Args:
            backend: Who evaluates.
            call: The function, at this step.
        """
        if not (self._wanted and self._has_key):
            yield backend
            return
        from distnum.evaluation.stores.backend import stored
        from distnum.evaluation.stores.digests import code_digest

        began = perf_counter()
        # Values of other code are not mixed with those of the present one.
        code = sha256(code_digest(call.function).encode()).hexdigest()
        store = self._folder / f"evaluations-{code[:12]}"
        if store.is_symlink():
            raise InputError(f"{store} is a symbolic link; a run's own folders must not be.")
        finished, is_new = False, not store.exists()
        try:
            with stored(backend, store) as storing:
                self._look_for_key(storing, call)
                yield _Reporting(storing, self._written) if self._has_key else backend
            finished = True
        except InputError as error:
            if "has changed" in str(error):
                self.clear()
                raise InputError(
                    "the loss does not return the value that it had before the run stopped, so what was kept of the "
                    "unfinished step is removed. Resume once more to compute the step anew."
                ) from error
            raise
        finally:
            self._wanted = perf_counter() - began > _LONG_S
            if finished or (is_new and not self._wanted):
                self.clear()

    def _look_for_key(self, storing: StoredBackend, call: FunctionCall) -> None:
        try:
            storing.identity(call)
        except InputError as error:
            log.warning("%s So the evaluations of a step are not kept, and a crash loses those of its step.", error)
            self._has_key = False

    def clear(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Reporting:
    """A backend that reports now and then that it has written something."""

    def __init__(self, backend: Backend, written: Callable[[], None]) -> None:
        self._backend = backend
        self._written = written

    @property
    def n_workers(self) -> int:
        """Number of evaluations at the same time."""
        return self._backend.n_workers

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points. See ``Backend``."""
        reported = perf_counter()
        for outcomes in self._backend.evaluate(call, points, limits, describe):
            yield outcomes
            if perf_counter() > reported + _WRITTEN_EVERY_S:
                reported = perf_counter()
                self._written()
