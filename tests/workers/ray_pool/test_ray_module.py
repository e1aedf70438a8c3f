"""Ray's start and end: what runs meanwhile, and whose errors are raised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from distnum import TrainingError
from distnum.workers.ray_pool.ray_module import initialised, ray_module
from tests.forks import in_copy


class FakeRay:
    """The part of the ``ray`` module that ``initialised`` uses."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.mark: str | None = None
        self.node: str | None = None
        self.n_shutdowns = 0

    def is_initialized(self) -> bool:
        return self.node is not None

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: self.node, get_job_id=lambda: "01000000")

    def init(self, **options: Any) -> None:
        self.mark = os.environ.get("MARK")
        if self._error is not None:
            raise self._error
        self.node = "ours"

    def shutdown(self) -> None:
        self.n_shutdowns += 1
        self.node = None


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
            super().init(**options)

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


def test_what_the_users_program_has_begun_meanwhile_is_not_shut_down() -> None:
    ray = FakeRay()
    with start(ray):
        ray.node = "the user's"
    assert (ray.n_shutdowns, ray.node) == (0, "the user's")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_copy_of_the_process_does_not_shut_ray_down() -> None:
    ray = FakeRay()
    context = start(ray)
    context.__enter__()

    def leave() -> int:
        context.__exit__(None, None, None)
        return ray.n_shutdowns

    assert in_copy(leave) == "0"
    context.__exit__(None, None, None)
    assert ray.n_shutdowns == 1


def test_variables_for_ray_hold_in_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "7")
    monkeypatch.delenv("RAY_max_direct_call_object_size", raising=False)
    before = dict(os.environ)
    with ray_module({"RAY_worker_niceness": "0", "RAY_max_direct_call_object_size": "5"}, {"RAY_AUTH_MODE": "token"}):
        inside = dict(os.environ)
    assert inside["RAY_AUTH_MODE"] == "token"  # whatever the user has set
    assert inside["RAY_worker_niceness"] == "7"  # as the user has set it
    assert inside["RAY_max_direct_call_object_size"] == "5"
    assert dict(os.environ) == before


CHILD = "import os; mask = os.umask(0); print(oct(mask), os.getpgid(0) == os.getpid())"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
def test_only_rays_own_processes_are_started_apart() -> None:
    def child() -> str:
        command = [sys.executable, "-c", CHILD]
        return subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=lambda: None).stdout

    answers: list[str] = []

    class StartingRay(FakeRay):
        def init(self, **options: Any) -> None:
            answers.append(child())
            users = threading.Thread(target=lambda: answers.append(child()))
            users.start()
            users.join()
            super().init(**options)

    before = os.umask(0o022)
    try:
        with start(StartingRay()):
            answers.append(child())
    finally:
        os.umask(before)
    assert answers == ["0o77 True\n", "0o22 False\n", "0o22 False\n"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sigaction")
def test_the_handler_of_sigterm_is_kept_in_every_thread() -> None:
    # Ray sets a handler of its own by the C library, as faulthandler does.
    code = """
import faulthandler, signal, sys, threading
sys.path.insert(0, ".")
from tests.workers.ray_pool.test_ray_module import FakeRay, start
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
class Ray(FakeRay):
    def init(self, **options):
        faulthandler.register(signal.SIGTERM, chain=False)
        super().init(**options)
def use():
    with start(Ray()):
        pass
thread = threading.Thread(target=use)
thread.start()
thread.join()
signal.raise_signal(signal.SIGTERM)
print(received)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("[15]\n", "")
