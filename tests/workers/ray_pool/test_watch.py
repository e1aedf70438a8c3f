"""The watch over a cluster's servers, and calls of Ray that end with them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distnum.common.errors import LostError, TrainingError
from distnum.workers.ray_pool import watch
from distnum.workers.ray_pool.guarded import GuardedRay
from distnum.workers.ray_pool.watch import ClusterWatch
from tests.system.processes import wait_for

# A server that speaks the first words of HTTP/2, as gRPC servers do, on a port; and a local socket.
SERVER = """
import socket, sys, threading
local = socket.socket(socket.AF_UNIX); local.bind(sys.argv[1]); local.listen()
server = socket.create_server(("127.0.0.1", 0)); print(server.getsockname()[1], flush=True)
def serve():
    while True:
        client, _ = server.accept()
        client.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])); client.close()
threading.Thread(target=serve).start()
kept = [local.accept() for _ in range(9)]
"""


class FakeRay:
    """A ``ray`` module whose servers are one process; its calls return when ``answer`` is set."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "raylet"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.gcs_address = f"127.0.0.1:{self.port}"
        self.answer = threading.Event()
        self.job = "1"

    def get_runtime_context(self) -> Any:
        return self

    def get_node_id(self) -> str:
        return "here"

    def get_job_id(self) -> str:
        return self.job

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        manager = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": self.port}
        return [{"NodeID": "here", "RayletSocketName": "raylet"} | manager]

    def put(self, value: Any) -> Any:
        self.answer.wait()
        if value is None:
            raise ValueError("nothing to put")
        return value


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    monkeypatch.chdir(tmp_path)  # the full name may be too long for a socket
    monkeypatch.setattr(watch, "_LOOK_S", 0.02)
    monkeypatch.setattr(watch, "_ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(watch, "_LOST_S", 0.2)
    made = FakeRay(tmp_path)
    yield made
    made.answer.set()
    made.process.kill()
    made.process.communicate()


@pytest.fixture
def watching(ray: FakeRay) -> Iterator[ClusterWatch]:
    made = ClusterWatch(ray)
    made.check()
    yield made
    made.close()


def test_the_end_of_the_raylet_is_noticed_at_once(ray: FakeRay, watching: ClusterWatch) -> None:
    ray.process.kill()
    ray.process.wait()
    with pytest.raises(LostError, match="cluster is lost: the raylet of this machine has ended"):
        watching.check()


def lost(watching: ClusterWatch) -> str:
    try:
        watching.check()
    except LostError as error:
        return str(error)
    return ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals that stop a process")
def test_a_server_that_does_not_answer_is_lost(ray: FakeRay, watching: ClusterWatch) -> None:
    import signal

    ray.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: lost(watching), 30, "the loss")
    assert "the control service has not answered for" in lost(watching)


def test_a_call_ends_when_the_cluster_is_lost(ray: FakeRay, watching: ClusterWatch) -> None:
    guarded = GuardedRay(ray, watching)
    threading.Timer(0.1, ray.process.kill).start()
    with pytest.raises(LostError):
        guarded.put(1)  # Ray itself would never return


def test_a_call_returns_what_ray_returns_and_raises_what_it_raises(ray: FakeRay, watching: ClusterWatch) -> None:
    guarded = GuardedRay(ray, watching)
    ray.answer.set()
    assert [guarded.put(number) for number in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="nothing to put"):
        guarded.put(None)
    guarded.close()


def test_a_call_to_another_session_is_refused(ray: FakeRay, watching: ClusterWatch) -> None:
    guarded = GuardedRay(ray, watching)
    ray.job = "2"  # after ray.shutdown, Ray starts a session by itself
    with pytest.raises(TrainingError, match=r"Ray was shut down by the program \(ray.shutdown\)"):
        guarded.put(1)


def test_a_server_of_another_kind_does_not_count_as_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            client, _ = server.accept()
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        threading.Thread(target=reply).start()
        assert not watch._answers(server.getsockname())
