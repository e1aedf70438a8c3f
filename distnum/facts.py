"""What a result depends on beside its configuration: versions and the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from distnum import __version__
from distnum.blas import blas_name

__all__ = ["commit", "machine_facts", "n_cores", "version_facts"]


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


def commit() -> str:
    """Of the code that runs, if it runs from a checkout of its own, and whether it was changed since; else nothing."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
