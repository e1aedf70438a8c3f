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


def simulated(n: int, speeds: list[float], seconds_of: Callable[[int], float], pause: float = 0.0) -> float:
    """Seconds until all points are finished, each of them exactly once.

    Args:
        n: Number of points.
        speeds: Speed of each worker.
        seconds_of: Seconds of a point on a worker of speed 1.
        pause: Seconds from a worker's reply until it begins a task that it did not have before.
    """
    points: Allotment = Allotment(FakeJob(n), None)  # type: ignore[arg-type, type-var]
    hands: list[list[np.ndarray]] = [[] for _ in speeds]  # the tasks of each worker
    began = [0.0] * len(speeds)  # when each has begun the first of them
    finished: list[int] = []
    now, n_workers = 0.0, len(speeds)
    events = [(0.0, 0, -1)]  # when a task ends, its position in the order of sending, and its worker; or a look

    def seconds(worker: int, numbers: np.ndarray) -> np.ndarray:
        return np.array([seconds_of(number) / speeds[worker] for number in numbers.tolist()])

    def begin(worker: int, at: float) -> None:
        began[worker] = at
        heapq.heappush(events, (at + float(seconds(worker, hands[worker][0]).sum()), len(events), worker))

    def give(worker: int, n_left: int) -> None:
        numbers, _ = points.take(worker, n_left, n_workers)
        if len(numbers):
            hands[worker].append(numbers)
            if len(hands[worker]) == 1:
                begin(worker, now + pause)

    while len(finished) < n:
        now, _, worker = heapq.heappop(events)
        if worker >= 0:
            numbers = hands[worker].pop(0)
            results = SimpleNamespace(numbers=numbers, seconds=seconds(worker, numbers))
            finished += points.finished(worker, numbers, results).numbers.tolist()
            if hands[worker]:
                begin(worker, now)
        idle = [worker for worker in range(n_workers) if not hands[worker]]
        for worker in points.pace.fastest_first(idle):
            tasks = [(np.concatenate(hand), now - at) for hand, at in zip(hands, began, strict=True) if hand]
            n_left = points.n_left(n_workers)
            if not n_left:
                n_left = points.copy_an_overdue_task(tasks)
            elif points.leave_to_others(worker, n_left, n_workers, tasks):
                continue
            if n_left:
                give(worker, n_left)
        for worker, hand in enumerate(hands):
            n_left = points.n_left(n_workers)
            if len(hand) == 1 and points.pace.has_time_for_more(worker, len(hand[0]), n_left, n_workers):
                give(worker, n_left)
        if not all(hands) and len(finished) < n:
            heapq.heappush(events, (now + 0.02, -1, -1))
    assert sorted(finished) == list(range(n))
    return now


@pytest.mark.parametrize("n_workers", [1, 2, 7, 16])
def test_equal_workers_finish_at_the_same_time(n_workers: int) -> None:
    assert simulated(1000, [1.0] * n_workers, lambda number: 0.02) <= 1.05 * 20 / n_workers


def test_workers_do_not_wait_for_the_driver_between_tasks() -> None:
    assert simulated(3200, [1.0] * 32, lambda number: 0.02, pause=0.004) <= 1.03 * 3200 * 0.02 / 32


def test_points_that_wait_behind_one_that_hangs_go_elsewhere() -> None:
    asked: list[int] = []

    def seconds_of(number: int) -> float:
        asked.append(number)
        return 1000.0 if number == 20 and asked.count(20) == 1 else 0.01

    assert simulated(300, [1.0, 1.0], seconds_of) < 4


@pytest.mark.parametrize("n", [400, 1600])
def test_a_worker_that_is_ten_times_slower_than_fifteen_others_costs_little(n: int) -> None:
    assert simulated(n, [0.1, *[1.0] * 15], lambda number: 0.02) <= 1.1 * n * 0.02 / 15.1


def test_a_worker_that_stops_is_not_waited_for() -> None:
    assert simulated(500, [1e-6, 1.0, 1.0], lambda number: 0.01) < 4


def test_a_slow_worker_helps_if_the_only_other_one_is_overdue() -> None:
    assert simulated(30, [1.0, 0.3], lambda number: 1e6 if number == 0 else 0.01) > 1e5  # the point itself takes long
    assert simulated(30, [1e-6, 0.3], lambda number: 0.01) < 10
