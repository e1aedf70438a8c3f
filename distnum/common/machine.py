"""This machine: cores, versions, BLAS threads, the allocator; what a result depends on besides its configuration."""

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

__all__ = [
    "blas_name",
    "git_commit",
    "keep_freed_memory",
    "machine_facts",
    "n_cores",
    "single_threaded_blas",
    "version_facts",
]


def version_facts() -> dict[str, str]:
    """Versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"distnum": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("numba", "ray"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine_facts() -> dict[str, Any]:
    """What the driver runs on."""
    facts: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        facts["cpu"] = names[0] if names else platform.processor()
    facts["blas"] = blas_name()
    return facts


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_commit() -> str:
    """Of the code that runs, if it runs from a checkout of its own, and whether it was changed since; else nothing."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """One thread for NumPy's matrix products: their rounding must not depend on the machine's cores."""
    manager: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return manager


def blas_name() -> str:
    """The library, its version and the processor it computes for, on which the rounding of products depends."""
    libraries = _controller().select(user_api="blas").info()
    return ", ".join(
        " ".join(str(one.get(key)) for key in ("internal_api", "version", "architecture") if one.get(key))
        for one in libraries
    )


# Parameters of the GNU C library's allocator, mallopt(3), and what they are set to: arrays up to
# the largest size that it allows come from the memory that is kept, of which so much may be free.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGE_BYTES = 256 * 2**20, 32 * 2**20


@cache
def keep_freed_memory() -> None:
    """Keep what arrays have freed for the next ones, where the C library lets one choose.

    One gradient's arrays are as large as the next one's. By default they are given back to the
    system after each, and got anew page by page, which takes a tenth of the time of a gradient.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
