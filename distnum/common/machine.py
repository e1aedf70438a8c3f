"""This machine: cores, versions, BLAS, the memory allocator. Results and timings depend on them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
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


@cache
def _blas_libraries() -> list[Any]:
    return list(_controller().select(user_api="blas").lib_controllers)


def _set_threads(numbers: list[tuple[Any, int]]) -> None:
    """Set the number of threads of each library."""
    for library, n_threads in numbers:
        # threadpoolctl ignores calls from threads other than the one that made the first, as long as that lives.
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
        library.set_num_threads(n_threads)


def _has_number_per_thread(library: Any) -> bool:
    """Whether each calling thread has its own number of threads; otherwise the process has one."""
    return getattr(library, "threading_layer", "") == "openmp"


_blas_lock = threading.Lock()
_n_blas_users = 0
_blas_before: list[tuple[Any, int]] = []  # numbers of threads that the first of the present users has found

if hasattr(os, "register_at_fork"):  # or a fork while another thread holds the lock would leave it locked
    os.register_at_fork(
        before=_blas_lock.acquire, after_in_parent=_blas_lock.release, after_in_child=_blas_lock.release
    )


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Let BLAS use one thread in the ``with`` block, so that rounding does not depend on the number of cores.

    Blocks may overlap, also in several threads: the number of threads is as before once the last one has ended.
    """
    global _n_blas_users, _blas_before
    libraries = _blas_libraries()
    with _blas_lock:
        before = [(library, library.get_num_threads()) for library in libraries]
        _set_threads([(library, 1) for library in libraries])
        if _n_blas_users == 0:
            _blas_before = before
        _n_blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _n_blas_users -= 1
            restored = [one for one in before if _has_number_per_thread(one[0])]
            if _n_blas_users == 0:
                restored += [one for one in _blas_before if not _has_number_per_thread(one[0])]
            _set_threads(restored)


def _blas_name() -> str:
    """Return the BLAS library, its version and its target processor, on which the rounding of products depends."""
    libraries = [library.info() for library in _blas_libraries()]
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
