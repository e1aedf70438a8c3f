"""Where the job of a network runs: the chosen numbers of workers, and what happens while Ray starts."""

from __future__ import annotations

from typing import Any

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


def counts(started: list[dict[str, Any]], gradient_s: float, **options: Any) -> tuple[int, int]:
    """The numbers of workers and threads chosen on one node with 8 CPUs."""
    job = prepare(None, None, None, None, {"hidden": (8,), "batch_size": 20, **options})
    with pytest.raises(Started):
        placement.open_pool(job, gradient_s=lambda: gradient_s)
    chosen = started[-1]["n_workers"](8, 1)
    assert chosen.at_start == chosen.most
    return chosen.most, chosen.n_threads


def test_auto_chooses_the_fastest_numbers_of_workers_and_threads(started: list[dict[str, Any]]) -> None:
    assert counts(started, 1e-4) == (1, 1)
    n_workers, n_threads = counts(started, 10.0)
    assert n_workers * n_threads == 8
    assert counts(started, 10.0, threads_per_worker=1) == (8, 1)
