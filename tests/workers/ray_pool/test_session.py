"""One Ray session per process: shared by all that need one, and ended with the last of them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distnum.common.errors import InputError, TrainingError
from distnum.workers.ray_pool import session as session_module
from distnum.workers.ray_pool.session import _Session, ray_session
from tests.forks import in_copy


class FakeRay:
    """The part of the ``ray`` module that sessions use; connected to one node after the other."""

    def __init__(self) -> None:
        self.n_begun = self.n_ended = 0
        self.node: str | None = None
        self.gcs_address = "127.0.0.1:6379"
        self.answers = True

    def is_initialized(self) -> bool:
        return self.node is not None

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(
            get_node_id=lambda: self.node, get_job_id=lambda: "01000000", gcs_address=self.gcs_address
        )

    def nodes(self) -> list[Any]:
        if not self.answers:
            threading.Event().wait()
        return []

    def begin(self) -> None:
        self.n_begun += 1
        self.node = f"node {self.n_begun}"

    def shutdown(self) -> None:
        self.node = None


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """Sessions are begun on this fake, and counted."""
    ray = FakeRay()

    def begun(folder: Path | None, meanwhile: Callable[[], object]) -> _Session:
        ray.begin()
        meanwhile()
        stack = contextlib.ExitStack()

        def end() -> None:
            ray.n_ended += 1
            ray.shutdown()

        stack.callback(end)
        return _Session(ray, (str(ray.node), "01000000"), folder, stack)

    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session_module, "_started", lambda n_cpus, n, meanwhile: begun(Path("shared"), meanwhile))
    monkeypatch.setattr(session_module, "_connected", lambda address, meanwhile: begun(None, meanwhile))
    monkeypatch.setattr(session_module, "cluster_address", lambda address: None if address == "local" else address)
    monkeypatch.setattr(session_module, "check_address", lambda address: None)
    monkeypatch.setattr(session_module, "_session", None)
    monkeypatch.setattr(session_module, "_used", False)
    yield ray
    assert session_module._session is None


def test_a_session_ends_with_its_last_user_in_any_order(ray: FakeRay) -> None:
    one, other = ray_session(None, 2, 2), ray_session(None, 4, 4)
    assert one.__enter__() == (ray, Path("shared"), False)
    assert other.__enter__() == (ray, Path("shared"), True)
    one.__exit__(None, None, None)
    assert (ray.n_begun, ray.n_ended) == (1, 0)
    other.__exit__(None, None, None)
    assert (ray.n_begun, ray.n_ended) == (1, 1)
    with ray_session(None, 2, 2):
        assert ray.n_begun == 2


def test_threads_share_one_session(ray: FakeRay) -> None:
    all_inside = threading.Barrier(4)

    def use(_: int) -> None:
        with ray_session(None, 2, 2):
            all_inside.wait(30)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(use, range(4)))
    assert (ray.n_begun, ray.n_ended) == (1, 1)


def test_what_runs_meanwhile_runs_once_for_each_user(ray: FakeRay) -> None:
    calls: list[str] = []
    with ray_session(None, 1, 1, lambda: calls.append("first")), ray_session(None, 1, 1, lambda: calls.append("next")):
        assert calls == ["first", "next"]


def test_an_error_at_the_start_leaves_no_session(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> _Session:
        raise TrainingError("Ray does not start")

    with monkeypatch.context() as patch:
        patch.setattr(session_module, "_started", fail)
        with pytest.raises(TrainingError):
            ray_session(None, 1, 1).__enter__()
    with ray_session(None, 1, 1):
        assert ray.n_begun == 1


def test_a_connection_to_a_cluster_is_shared(ray: FakeRay) -> None:
    with ray_session("127.0.0.1:6379", 1, 1):
        with ray_session("127.0.0.1:6379", 1, 1) as second, ray_session(None, 1, 1), ray_session("auto", 1, 1):
            assert second == (ray, None, True)
        assert ray.n_ended == 0
    assert (ray.n_begun, ray.n_ended) == (1, 1)


@pytest.mark.parametrize(("open_one", "wanted"), [(None, "10.0.0.1:99"), ("127.0.0.1:6379", "local")])
def test_another_cluster_than_the_connected_one_is_refused(ray: FakeRay, open_one: str | None, wanted: str) -> None:
    with ray_session(open_one, 1, 1):
        with pytest.raises(InputError, match=f"address is '{wanted}', but this process is using the Ray session"):
            ray_session(wanted, 1, 1).__enter__()
        assert ray.n_ended == 0


def test_a_session_of_the_users_program_is_used_and_not_ended(ray: FakeRay) -> None:
    ray.begin()
    with ray_session(None, 1, 1) as session:
        assert session == (ray, None, False)
    assert ray.is_initialized()
    with pytest.raises(InputError, match="using the Ray session at"):
        ray_session("10.0.0.1:99", 1, 1).__enter__()


def test_a_session_of_the_users_program_that_does_not_answer_is_refused(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_ANSWER_S", 0.1)
    ray.begin()
    ray.answers = False
    with pytest.raises(TrainingError, match=r"has not answered for 0\.1 s\. Its servers have been lost, or"):
        ray_session(None, 1, 1).__enter__()


def test_a_session_that_the_users_program_has_shut_down_is_begun_anew(ray: FakeRay) -> None:
    with ray_session(None, 1, 1):
        ray.shutdown()
        with ray_session(None, 1, 1) as second:
            assert not second.shared
            assert ray.n_begun == 2
        assert ray.n_ended == 2
        ray.begin()  # by the user's program
    assert ray.is_initialized()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_copy_of_a_process_that_has_used_ray_is_told_so(ray: FakeRay) -> None:
    with ray_session(None, 1, 1):
        assert in_copy(lambda: ray_session(None, 1, 1).__enter__()).startswith(
            "InputError: workers cannot be used in this process: it is a copy (fork) of one that has used Ray."
        )
        assert ray.n_ended == 0
    assert in_copy(lambda: ray_session(None, 1, 1).__enter__()).startswith("InputError: workers cannot be used")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_copy_of_a_process_without_ray_has_a_session_of_its_own(ray: FakeRay) -> None:
    assert in_copy(lambda: ray_session(None, 1, 1).__enter__().shared) == "False"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_another_thread_starts_ray_leaves_no_lock_behind(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, go_on = threading.Event(), threading.Event()
    begin = session_module._started

    def slow(n_cpus: int, n_workers: int, meanwhile: Callable[[], object]) -> _Session:
        starting.set()
        assert go_on.wait(30)
        return begin(n_cpus, n_workers, meanwhile)

    monkeypatch.setattr(session_module, "_started", slow)
    with ThreadPoolExecutor(1) as executor:
        used = executor.submit(lambda: ray_session(None, 1, 1).__enter__())
        assert starting.wait(30)
        assert in_copy(lambda: ray_session(None, 1, 1).__enter__()).startswith("InputError")
        go_on.set()
        assert used.result().ray is ray
