"""Where a job runs: the chosen numbers of workers, and no code of the user while Ray starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distnum.training import placement
from distnum.training.prepare import prepare


class Started(Exception):
    """Ray would be started now."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the pools that would be opened."""
    arguments: list[dict[str, Any]] = []

    def pool(*positional: Any, **named: Any) -> None:
        arguments.append(named | {"n_workers": positional[2]})
        raise Started

    monkeypatch.setattr(placement, "RayPool", pool)
    return arguments


def test_a_function_is_estimated_before_ray_starts(started: list[dict[str, Any]]) -> None:
    n_calls = [0]

    def loss(params: np.ndarray, batch: Any) -> float:
        n_calls[0] += 1
        return float((params**2).sum())

    job = prepare(loss, np.ones(3), None, None, {"workers": "auto"})
    with pytest.raises(Started):
        placement.open_pool(job)
    n_before = n_calls[0]
    assert n_before > 0
    started[0]["meanwhile"]()
    started[0]["n_workers"](2, 1)
    assert n_calls[0] == n_before


def test_an_exception_of_a_function_is_raised_before_ray_starts(started: list[dict[str, Any]]) -> None:
    def loss(params: np.ndarray, batch: Any) -> float:
        raise ValueError("math domain error")

    with pytest.raises(ValueError, match="math domain error"):
        placement.open_pool(prepare(loss, np.ones(3), None, None, {"workers": "auto"}))
    assert not started


def test_the_kernels_of_a_network_are_loaded_while_ray_starts(started: list[dict[str, Any]]) -> None:
    job = prepare(None, None, None, None, {"hidden": 3, "batch_size": 5})
    with pytest.raises(Started):
        placement.open_pool(job)
    n_rows: list[int] = []
    objective: Any = job.objective
    at = objective.at
    objective.at = lambda *arguments: n_rows.append(len(arguments[1].x)) or at(*arguments)
    started[0]["meanwhile"]()
    assert n_rows == [5]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_auto_chooses_the_fastest_numbers_of_workers_and_threads() -> None:
    small: dict[str, Any] = {"hidden": (8,), "steps": 4, "batch_size": 20}
    job = prepare(None, None, None, None, small)
    with placement.open_pool(job, gradient_s=lambda: 1e-4) as pool:
        assert pool.n_workers == 1
    with placement.open_pool(job, gradient_s=lambda: 10.0) as pool:
        assert pool.n_workers * pool.n_threads == 8
    one_thread = prepare(None, None, None, None, {**small, "threads_per_worker": 1})
    with placement.open_pool(one_thread, gradient_s=lambda: 10.0) as pool:
        assert (pool.n_workers, pool.n_threads) == (8, 1)
