"""Runs the compiled loops as plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distnum.networks.propagation import kernels
from distnum.networks.propagation.compiled import Kernel


@pytest.fixture
def plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all loops as plain Python: fast enough for tiny networks, and nothing has to be compiled."""

    def call(kernel: Kernel, *arguments: Any) -> None:
        with np.errstate(all="ignore"):  # compiled code does not warn, for example of 0 / 0 in padding
            kernel.function(*arguments)

    monkeypatch.setattr(Kernel, "__call__", call)
    for name, value in vars(kernels).items():
        if hasattr(value, "py_func"):
            monkeypatch.setattr(kernels, name, value.py_func)
