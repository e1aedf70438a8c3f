"""Tasks and answers over sockets, also of a worker that stops in the middle of an answer or ends."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from distnum.workers.ray_pool import channel
from distnum.workers.ray_pool.channel import Channel, RayWorker
from distnum.workers.ray_pool.messages import RayTask, unpacked_task


class GetTimeoutError(Exception):
    """Stands for Ray's exception of this name."""


class Ray:
    """The part of Ray that ``Channel`` uses; its answer about an actor is always the given exception."""

    def __init__(self, end: Exception) -> None:
        self.exceptions = self
        self.GetTimeoutError = GetTimeoutError
        self._end = end

    def get(self, ref: object, timeout: float) -> Any:
        raise self._end

    def check(self) -> None:
        """Do nothing: the cluster is never lost."""


class Actor:
    """An actor that does not answer calls."""

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self) -> object:
        return object()


def task(n_tiles: int = 3) -> RayTask:
    return RayTask(1, 1, np.arange(n_tiles), first=True)


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.chdir(tmp_path)  # its full name may be too long for a socket
    monkeypatch.setattr(channel, "_MESSAGE_TIMEOUT_S", 1)
    with Listener("worker", "AF_UNIX") as made:
        yield made


def with_task(listener: Listener, ray: Ray, n_tiles: int = 3) -> tuple[Channel, RayWorker, Connection]:
    """A worker that has got a task, and its end of the connection."""
    worker = RayWorker(1, Actor(), None, address=str(listener.address))
    driver_channel = Channel(ray)
    driver_channel.send(worker, task(n_tiles), None, 1.0)
    return driver_channel, worker, listener.accept()


def test_a_task_is_sent_and_its_answer_received(listener: Listener) -> None:
    driver_channel, worker, connection = with_task(listener, Ray(GetTimeoutError()))
    assert unpacked_task(connection.recv_bytes()).shard.tolist() == [0, 1, 2]
    assert driver_channel.replied([worker], 0) == []
    connection.send_bytes(b"found")
    assert driver_channel.replied([worker], 10) == [worker]
    assert driver_channel.receive(worker, 10) == b"found"


def test_a_worker_that_stops_in_the_middle_of_an_answer_is_not_waited_for(listener: Listener) -> None:
    driver_channel, worker, connection = with_task(listener, Ray(GetTimeoutError()))
    with connection:
        os.write(connection.fileno(), struct.pack("!i", 100) + b"half")
        assert driver_channel.replied([worker], 10) == [worker]
        with pytest.raises(ConnectionError, match="connection is broken"):
            driver_channel.receive(worker, 60)


@pytest.mark.slow
def test_a_worker_that_does_not_read_is_not_waited_for(listener: Listener) -> None:
    began = perf_counter()
    driver_channel, worker, connection = with_task(listener, Ray(GetTimeoutError()), n_tiles=1_000_000)
    with connection:
        assert driver_channel.replied([worker], 60) == [worker]
        with pytest.raises(ConnectionError, match="connection is broken"):
            driver_channel.receive(worker, 60)
    assert perf_counter() - began < 30


def test_the_error_of_a_lost_worker_is_the_reason_that_ray_gives(listener: Listener) -> None:
    driver_channel, worker, connection = with_task(listener, Ray(MemoryError("it has taken too much")))
    connection.close()
    assert driver_channel.replied([worker], 10) == [worker]
    with pytest.raises(MemoryError, match="too much"):
        driver_channel.receive(worker, 10)
    # The next task goes over a new connection, as the process may still run.
    driver_channel.send(worker, task(), None, 1.0)
    with listener.accept() as again:
        assert unpacked_task(again.recv_bytes()).turn == 1


def test_a_worker_that_ended_before_its_task_was_sent_is_noticed_when_its_answer_is_due(listener: Listener) -> None:
    driver_channel, worker, connection = with_task(listener, Ray(MemoryError("it has taken too much")))
    connection.close()
    driver_channel.send(worker, task(), None, 1.0)
    assert driver_channel.replied([worker], 10) == [worker]
    with pytest.raises(MemoryError):
        driver_channel.receive(worker, 10)


def test_a_worker_that_does_not_listen_is_called_through_ray(tmp_path: Path) -> None:
    calls = []

    class Called(Actor):
        def remote(self, *arguments: object) -> object:
            calls.append(arguments)
            return "reference"

    worker = RayWorker(1, Called(), None, address=str(tmp_path / "nobody"))
    Channel(Ray(GetTimeoutError())).send(worker, task(), None, 1.0)
    assert worker.call is not None
    assert worker.call.ref == "reference"
    assert len(calls) == 1
