"""This machine: cores, versions, BLAS, the memory allocator. Results and timings depend on them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.version import __version__

__all__ = ["git_commit", "keep_freed_memory", "machine_facts", "n_cores", "single_threaded_blas", "version_facts"]


def version_facts() -> dict[str, str]:
    """Return the versions of distnum, Python and the packages that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"distnum": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("numba", "ray"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def machine_facts() -> dict[str, Any]:
    """Return the system, the processor and the BLAS library of this machine."""
    facts: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
        facts["cpu"] = next(names, "") or platform.processor()
    return facts | {"blas": _blas_name()}


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_commit() -> str:
    """Return ``git describe`` of the checkout that runs; an empty string if distnum runs from no checkout of its own.

    Uncommitted changes add ``-dirty``.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Return a context in which BLAS uses one thread, so that rounding does not depend on the number of cores."""
    return _controller().limit(limits=1, user_api="blas")


def _blas_name() -> str:
    """Return the BLAS library, its version and its target processor, on which the rounding of products depends."""
    libraries = _controller().select(user_api="blas").info()
    return ", ".join(
        " ".join(str(library.get(key)) for key in ("internal_api", "version", "architecture") if library.get(key))
        for library in libraries
    )


# Parameters of the GNU C library's allocator, see mallopt(3). Arrays of up to _LARGE_BYTES, the largest value that it
# allows, come from memory that stays allocated to the process while no more than _KEPT_BYTES of it are free.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGE_BYTES = 256 * 2**20, 32 * 2**20


@cache
def keep_freed_memory() -> None:
    """Keep the memory of freed arrays for later ones, where the C library offers it.

    The arrays of one gradient are as large as those of the next. By default their memory returns to the system and is
    allocated again page by page, which takes a tenth of a gradient's time.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
