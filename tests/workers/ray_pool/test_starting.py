"""Actors that have been requested: which of them are ended if one fails to start."""

from __future__ import annotations

from typing import Any

import pytest

from distnum.common.errors import LostError
from distnum.common.events import Event
from distnum.workers.ray_pool.actor import DistnumWorker
from distnum.workers.ray_pool.roster import Roster, WorkerCounts
from distnum.workers.ray_pool.starting import StartingActors


class FakeRay:
    """The part of the ``ray`` module that a roster uses; the actors with these numbers fail to start."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class RayActorError(RayError):
            pass

    def __init__(self, failing: set[int]) -> None:
        self.failing = failing
        self.n_actors = 0
        self.killed: list[int] = []

    connected = True

    def get_runtime_context(self) -> Any:
        return self

    def get_node_id(self) -> str:
        return "here"

    def remote(self, actor_class: type) -> Any:
        return self

    def options(self, **options: Any) -> Any:
        return FakeActors(self)

    def wait(self, refs: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return refs, []

    def get(self, ref: int) -> tuple[int, str, str, None]:
        if ref in self.failing:
            raise FakeRay.exceptions.RayTaskError(f"actor {ref} has no fuel")
        return 0, "elsewhere", "host", None

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor.number)


class FakeActors:
    def __init__(self, ray: FakeRay) -> None:
        self._ray = ray

    def remote(self, setup: Any) -> FakeActor:
        self._ray.n_actors += 1
        return FakeActor(self._ray.n_actors)


class FakeActor:
    """An actor; the reference of its ``ready`` call is its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = self

    def remote(self) -> int:
        return self.number


def roster(ray: FakeRay, events: list[Event]) -> Roster:
    counts = WorkerCounts(least=1, most=3, at_start=3)
    starting = StartingActors(ray, DistnumWorker, None, 1, {}, spread=False)
    return Roster(ray, starting, lambda: counts, wait_s=1.0, on_event=events.append)


def test_all_actors_are_ended_if_one_of_the_first_fails_to_start() -> None:
    ray = FakeRay(failing={2})
    workers = roster(ray, [])
    with pytest.raises(FakeRay.exceptions.RayTaskError, match="actor 2 has no fuel"):
        workers.start()
    workers.close()
    assert sorted(ray.killed) == [1, 2, 3]


def test_a_replacement_that_fails_to_start_is_reported_and_requested_again() -> None:
    ray = FakeRay(failing={4})
    events: list[Event] = []
    workers = roster(ray, events)
    workers.start()
    workers.lose(workers.working[0], 5, "it was killed.")
    workers.refresh(6, lambda call: 1.0)
    assert [event.kind for event in events][-1] == "worker_not_started"
    assert "actor 4 has no fuel" in events[-1].text
    workers.wait_for(3)
    assert len(workers.working) == 3


class DyingRay(FakeRay):
    """Actors with these numbers die while they start, as with their node."""

    def get(self, ref: int) -> tuple[int, str, str, None]:
        if ref in self.failing:
            raise FakeRay.exceptions.RayError(f"the node of actor {ref} has died")
        return 0, "elsewhere", "host", None


def test_workers_that_die_together_while_they_start_are_replaced() -> None:
    ray = DyingRay(failing={1, 2, 3})
    events: list[Event] = []
    workers = roster(ray, events)
    workers.start()
    assert [worker.number for worker in workers.working] == [4, 5, 6]
    assert [event.kind for event in events].count("worker_not_started") == 3


def test_a_start_whose_workers_die_again_and_again_ends_with_the_reason() -> None:
    ray = DyingRay(failing=set(range(1, 1000)))
    with pytest.raises(LostError, match="Workers died while they started, the last one because: the node of actor 9"):
        roster(ray, []).start()
