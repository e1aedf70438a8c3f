"""The end of a process that must leave Ray alone."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import sys
from typing import Any

__all__ = ["C_LIBRARY", "abandon"]

C_LIBRARY = None if sys.platform == "win32" else ctypes.CDLL(None)
"""The C library that this process has loaded; None on Windows."""


def abandon(ray: Any) -> None:
    """Let this process end without ending Ray: it is a copy (fork) of Ray's process, or the servers are lost.

    Ray would end the other process's session, and its objects would wait for threads or servers that are not there.
    """
    atexit.unregister(ray.shutdown)
    worker: Any = sys.modules.get("ray._private.worker")
    if sys.excepthook is getattr(worker, "custom_excepthook", None):  # it reports an exception to the servers
        sys.excepthook = getattr(worker, "normal_excepthook", sys.__excepthook__)
    with contextlib.suppress(AttributeError):
        for owner in (ray._private.state.state, ray._private.worker.global_worker):
            for kept in list(vars(owner).values()):
                _keep_forever(kept)
    # While Ray is imported or started, there are no references. Its own processes then start as copies of this one.
    if getattr(ray, "is_initialized", bool)():
        for kept in gc.get_objects():
            if isinstance(kept, ray.ObjectRef):
                # Deleting it would tell the raylet so, over the connection of the other process.
                _keep_forever(kept)
    if C_LIBRARY is not None and hasattr(C_LIBRARY, "on_exit"):
        # Called with the exit status, before the C++ library's own objects are deleted.
        C_LIBRARY.on_exit(C_LIBRARY._exit, None)


def _keep_forever(kept: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
