"""Ray's start and end: what runs meanwhile, and whose errors are raised."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from distnum import TrainingError
from distnum.workers.ray_pool.ray_module import initialised


class FakeRay:
    """The part of the ``ray`` module that ``initialised`` uses."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.mark: str | None = None
        self.n_shutdowns = 0

    def init(self, **options: Any) -> None:
        self.mark = os.environ.get("MARK")
        if self._error is not None:
            raise self._error

    def shutdown(self) -> None:
        self.n_shutdowns += 1


def start(ray: FakeRay, meanwhile: Any = lambda: None) -> Any:
    return initialised(ray, {}, {"MARK": "ours"}, meanwhile, lambda reason: TrainingError(f"no Ray: {reason}"))


def test_ray_is_started_with_the_mark_and_shut_down() -> None:
    ray = FakeRay()
    with start(ray):
        assert ray.mark == "ours"
        assert "MARK" not in os.environ
    assert ray.n_shutdowns == 1


def test_an_error_of_rays_start_is_named_as_such() -> None:
    with pytest.raises(TrainingError, match="no Ray: no port is free"), start(FakeRay(OSError("no port is free."))):
        raise AssertionError


@pytest.mark.parametrize("error", [ValueError("math domain error"), RuntimeError("no fuel"), KeyboardInterrupt()])
def test_an_error_of_what_runs_meanwhile_is_raised_unchanged(error: BaseException) -> None:
    def meanwhile() -> None:
        raise error

    ray = FakeRay()
    with pytest.raises(type(error)) as raised, start(ray, meanwhile):
        raise AssertionError
    assert raised.value is error
    assert ray.n_shutdowns == 1


def test_an_interrupt_while_ray_starts_does_not_end_what_runs_meanwhile() -> None:
    # Ray's start waits for what runs meanwhile, as two threads that import wait for one another.
    finished = threading.Event()

    class ImportingRay(FakeRay):
        def init(self, **options: Any) -> None:
            assert finished.wait(30), "what runs meanwhile was interrupted"

    def meanwhile() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # byte code between which an interrupt could be raised
            pass
        finished.set()

    ray = ImportingRay()
    with pytest.raises(KeyboardInterrupt), start(ray, meanwhile):
        raise AssertionError
    assert finished.is_set()
    assert ray.n_shutdowns == 1
