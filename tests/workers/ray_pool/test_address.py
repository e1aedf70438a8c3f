"""Which cluster is connected to: one that the user has named, or a node of the user's own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distnum.common.errors import InputError
from distnum.workers.ray_pool.address import cluster_address, has_token, same_cluster


@pytest.fixture
def head() -> Iterator[str]:
    """The address of a server that begins as a Ray head does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def process(arguments: list[str], *, user: str = "", program: str = "/ray/raylet", **environment: str) -> Any:
    """A running process as ``psutil`` shows it; by default one of this user."""
    return SimpleNamespace(
        username=lambda: user or psutil.Process().username(),
        exe=lambda: program,
        cmdline=lambda: arguments,
        environ=lambda: environment,
    )


@pytest.fixture(autouse=True)
def running(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes of the machine; none by default, and no ``RAY_ADDRESS``."""
    processes: list[Any] = []
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(processes))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return processes


def test_without_an_address_a_session_of_our_own_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address(None) is None
    assert cluster_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address(None) is None


def test_an_address_that_is_given_comes_before_that_of_the_environment(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cluster_address(head) == head
    assert cluster_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", head)
    assert cluster_address(None) == head
    assert cluster_address("auto") == head


def test_auto_finds_a_node_of_this_user(head: str, running: list[Any]) -> None:
    running += [process(["raylet", f"--gcs-address={head}"]), process(["raylet", f"--gcs-address={head}", "-x"])]
    assert cluster_address("auto") == head


@pytest.mark.parametrize(
    "other",
    [
        process(["raylet", "--gcs-address=127.0.0.1:1"], user="somebody"),
        process(["raylet", "--gcs-address=127.0.0.1:1"], program="/usr/bin/sudo"),
        process(["raylet", "--gcs-address=127.0.0.1:1"], DISTNUM_SESSION="1"),
    ],
    ids=["another user's", "another program with such arguments", "a session of another training"],
)
def test_auto_is_not_led_elsewhere(other: Any, head: str, running: list[Any]) -> None:
    running.append(other)
    with pytest.raises(InputError, match="RAY_ADDRESS is not set and no Ray node of this user runs"):
        cluster_address("auto")
    running.append(process(["raylet", f"--gcs-address={head}"]))
    assert cluster_address("auto") == head


def test_auto_does_not_read_the_file_that_every_user_can_write(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(head)
    with pytest.raises(InputError, match="RAY_ADDRESS is not set"):
        cluster_address("auto")


def test_auto_asks_which_of_several_clusters(running: list[Any]) -> None:
    running += [process(["raylet", f"--gcs-address=10.0.0.{n}:6379"]) for n in (1, 2)]
    with pytest.raises(InputError, match=r"several Ray clusters of this user run here: 10\.0\.0\.1:6379, 10\.0"):
        cluster_address("auto")


@pytest.mark.parametrize(
    ("address", "connected", "same"),
    [
        ("10.0.0.1:6379", "10.0.0.1:6379", True),
        ("127.0.0.1:6379", "10.0.0.1:6379", True),  # maybe: this machine has several addresses
        ("10.0.0.1:6379", "10.0.0.2:6379", False),
        ("10.0.0.1:6379", "10.0.0.1:6380", False),
        ("nonsense", "10.0.0.1:6380", False),
    ],
)
def test_clusters_are_told_apart(address: str, connected: str, same: bool) -> None:
    assert same_cluster(address, connected) is same


def test_a_token_is_looked_for_where_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert has_token()
    monkeypatch.setenv("HOME", "/nonexistent")
    assert not has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert has_token()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no user ids")
def test_a_user_without_a_home_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # unknown to the system
    assert not has_token()
