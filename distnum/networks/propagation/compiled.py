"""Functions that Numba compiles when they are first called, keeping the machine code on the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

from numba import njit
from numba.core import event

__all__ = ["Kernel"]

log = logging.getLogger("distnum")


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once that something is compiled, which takes seconds; what the disk has kept is not."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            log.info("compiling ...  (once; the machine code is kept on the disk)")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


class Kernel:
    """A loop, compiled when it is first called; its machine code is kept on the disk, unless told otherwise."""

    def __init__(self, function: Callable[..., None], keep: bool = True) -> None:
        self._function = function
        self._keep = keep
        self._compiled: Any = None

    def _compile(self, cache: bool) -> Any:
        return njit(cache=cache, nogil=True, error_model="numpy")(self._function)

    def __call__(self, *arguments: Any) -> None:
        """Run the loop; where machine code cannot be kept or read back, compile it anew."""
        try:
            if self._compiled is None:
                self._compiled = self._compile(cache=self._keep)
            self._compiled(*arguments)
        except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, ImportError) as error:
            # All of these come from the files of the cache, before anything has been computed.
            log.debug("compiled code is not kept: %s", error)
            self._compiled = self._compile(cache=False)
            self._compiled(*arguments)
