"""Kernels are compiled at their first call, with or without a place to keep the machine code."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import numpy as np
import pytest

from distnum.networks.propagation.compiled import Kernel


def _double(x: Any) -> None:
    for i in range(len(x)):
        x[i] = 2 * x[i]


@pytest.mark.parametrize("keep", [True, False])
def test_a_kernel_runs_its_function(keep: bool) -> None:
    x = np.arange(3.0)
    Kernel(_double, keep)(x)
    assert x.tolist() == [0, 2, 4]


@pytest.mark.parametrize("error", [OSError("disk full"), EOFError(), pickle.UnpicklingError("damaged")], ids=repr)
def test_a_kernel_whose_code_cannot_be_kept_is_compiled_all_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compile_kernel = Kernel._compile
    asked = []

    def fail_with_cache(kernel: Kernel, cache: bool) -> Any:
        asked.append(cache)
        if cache:
            raise error
        return compile_kernel(kernel, cache)

    monkeypatch.setattr(Kernel, "_compile", fail_with_cache)
    kernel, x = Kernel(_double), np.arange(3.0)
    with caplog.at_level(logging.DEBUG, "distnum"):
        kernel(x)
        kernel(x)
    assert x.tolist() == [0, 4, 8]
    assert asked == [True, False]
    assert "compiled code is not kept" in caplog.text
