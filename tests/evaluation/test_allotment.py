"""Which points an idle worker gets, in a simulation of workers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from distnum.evaluation.ray_workers.allotment import Allotment


class FakeJob:
    """A job of ``n`` points."""

    most_points = 1_000_000

    def __init__(self, n: int) -> None:
        self._numbers = np.arange(n)

    def draw(self, most: int) -> np.ndarray:
        drawn, self._numbers = self._numbers[:most], self._numbers[most:]
        return drawn

    def n_new(self, at_least: int) -> int:
        return len(self._numbers)

    def without(self, results: SimpleNamespace, numbers: set[int]) -> SimpleNamespace:
        kept = np.array([number not in numbers for number in results.numbers], bool)
        return SimpleNamespace(numbers=results.numbers[kept], seconds=results.seconds[kept])


def simulated(n: int, speeds: list[float], seconds_of: Callable[[int], float]) -> float:
    """Seconds until all points are finished, each of them exactly once."""
    points: Allotment = Allotment(FakeJob(n), None)  # type: ignore[arg-type, type-var]
    tasks: dict[int, tuple[np.ndarray, float, float]] = {}  # by worker: numbers, begin, end
    finished: list[int] = []
    now, ends = 0.0, [(0.0, -1)]
    while len(finished) < n:
        now, worker = heapq.heappop(ends)
        if worker in tasks and tasks[worker][2] <= now:
            numbers, _, _ = tasks.pop(worker)
            seconds = np.array([seconds_of(number) / speeds[worker] for number in numbers])
            results = points.finished(worker, numbers, SimpleNamespace(numbers=numbers, seconds=seconds))
            finished += results.numbers.tolist()
        idle = [worker for worker in range(len(speeds)) if worker not in tasks]
        for worker in points.pace.fastest_first(idle):
            n_left, sent = points.n_left(len(speeds)), [(numbers, now - begin) for numbers, begin, _ in tasks.values()]
            if not n_left:
                n_left = points.copy_an_overdue_task(sent)
            elif points.leave_to_others(worker, n_left, len(speeds), sent):
                continue
            if n_left:
                numbers, _ = points.take(worker, n_left, len(speeds))
                if len(numbers):
                    end = now + sum(seconds_of(number) for number in numbers.tolist()) / speeds[worker]
                    tasks[worker] = numbers, now, end
                    heapq.heappush(ends, (end, worker))
        if len(tasks) < len(speeds) and len(finished) < n:
            heapq.heappush(ends, (now + 0.02, -1))
    assert sorted(finished) == list(range(n))
    return now


@pytest.mark.parametrize("n_workers", [1, 2, 7, 16])
def test_equal_workers_finish_at_the_same_time(n_workers: int) -> None:
    assert simulated(1000, [1.0] * n_workers, lambda number: 0.02) <= 1.05 * 20 / n_workers


@pytest.mark.parametrize("n", [400, 1600])
def test_a_worker_that_is_ten_times_slower_than_fifteen_others_costs_little(n: int) -> None:
    assert simulated(n, [0.1, *[1.0] * 15], lambda number: 0.02) <= 1.1 * n * 0.02 / 15.1


def test_a_worker_that_stops_is_not_waited_for() -> None:
    assert simulated(500, [1e-6, 1.0, 1.0], lambda number: 0.01) < 4


def test_a_slow_worker_helps_if_the_only_other_one_is_overdue() -> None:
    assert simulated(30, [1.0, 0.3], lambda number: 1e6 if number == 0 else 0.01) > 1e5  # the point itself takes long
    assert simulated(30, [1e-6, 0.3], lambda number: 0.01) < 10
