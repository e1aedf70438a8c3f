"""Functions that Numba compiles at their first call; the machine code is kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pickle import UnpicklingError
from typing import Any

from numba import njit
from numba.core import event

from distnum.networks.propagation.code_cache import CodeCache

__all__ = ["Kernel"]

log = logging.getLogger("distnum")


class _CompileListener(event.Listener):  # type: ignore[misc]
    """Logs once that something is compiled, which takes seconds. Code read from disk is not logged."""

    logged = False

    def on_start(self, event: Any) -> None:
        if not self.logged:
            self.logged = True
            log.info("compiling ...  (once; the machine code is kept on disk)")

    def on_end(self, event: Any) -> None:
        pass


@cache
def _listen() -> None:
    event.register("numba:compile", _CompileListener())


class Kernel:
    """A loop that is compiled at its first call.

    Args:
        function: The loop. Numba keeps its code by this function's file, name and closure.
        keep: Whether to keep the machine code on disk.
    """

    def __init__(self, function: Callable[..., None], keep: bool = True) -> None:
        self.function = function
        self._keep = keep
        self._compiled: Any = None

    def _compile(self, cache: bool) -> Any:
        _listen()
        compiled = njit(nogil=True, error_model="numpy")(self.function)
        if cache:
            compiled._cache = CodeCache(self.function)  # as Numba's own cache=True does with its FunctionCache
        return compiled

    def __call__(self, *arguments: Any) -> None:
        """Run the loop. If machine code cannot be written or read, compile without keeping it."""
        try:
            if self._compiled is None:
                self._compiled = self._compile(cache=self._keep)
            self._compiled(*arguments)
        except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, ImportError) as error:
            # All of these come from the files of the cache, before anything has been computed.
            log.debug("compiled code is not kept: %s", error)
            self._compiled = self._compile(cache=False)
            self._compiled(*arguments)
