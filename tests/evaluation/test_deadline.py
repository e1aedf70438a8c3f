"""A deadline ends a derivative while evaluations still run, also those that hang."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import Status


def test_a_deadline_ends_the_wait_for_threads_that_hang() -> None:
    go_on = Event()

    def hangs(x: Any) -> float:
        if x[1] != 2:
            go_on.wait(60)
        return float(x @ x)

    with ThreadPoolExecutor(2) as executor:
        with pytest.warns(distnum.DerivativeWarning, match=r"Stopped after 0.5 s: [12] of 3 coordinates are missing"):
            found = distnum.differentiate(hangs, np.array([1.0, 2.0, 3.0]), workers=executor, deadline=0.5)
        go_on.set()
    assert found.status.tolist()[1] == Status.MISSING


@pytest.mark.ray
@pytest.mark.slow
def test_a_deadline_ends_the_wait_for_workers_that_hang() -> None:
    def hangs(x: Any) -> float:
        if x[1] != 2:
            time.sleep(1000)
        return float(x @ x)

    x = np.array([1.0, 2.0, 3.0])
    with distnum.Evaluator(2) as workers:
        with pytest.warns(distnum.DerivativeWarning, match="Stopped after 3 s"):
            found = distnum.differentiate(hangs, x, workers=workers, deadline=3)
        assert found.status.tolist()[1] == Status.MISSING
        assert distnum.gradient(lambda x: float(x @ x), x, workers=workers).round(6).tolist() == [2, 4, 6]
