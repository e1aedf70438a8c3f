"""Following a job through lost connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from distnum.cli.submit.connection import Connection
from distnum.cli.submit.follow import follow

pytest.importorskip("aiohttp", reason="ray[default] is not installed")


class Client:
    """A client of Ray's whose one job has failed with exit code 3.

    Args:
        log: the output of the job.
        fails: errors that end the connections that follow the log, the last one first.
        log_fails: the error of reading the whole log.
    """

    def __init__(self, log: str, fails: list[Exception], log_fails: Exception | None = None) -> None:
        self._log, self._fails, self._log_fails = log, fails, log_fails

    def get_job_info(self, number: str) -> Any:
        values = {"submission_id": number, "status": "FAILED", "start_time": 0, "metadata": {}, "driver_exit_code": 3}
        return type("Info", (), values)

    async def tail_job_logs(self, number: str) -> AsyncIterator[str]:
        yield self._log[:5]
        if self._fails:
            raise self._fails.pop()
        yield self._log[5:]

    def get_job_logs(self, number: str) -> str:
        if self._log_fails is not None:
            raise self._log_fails
        return self._log


def connected(client: Client) -> Connection:
    connection = Connection.__new__(Connection)
    connection.address, connection._token, connection.client = "http://head:8265", "", client
    return connection


def test_a_log_is_followed_through_lost_connections() -> None:
    from aiohttp import ServerDisconnectedError

    for error in (ServerDisconnectedError(), OSError("reset"), RuntimeError("closed unexpectedly")):
        printed: list[str] = []
        assert follow(connected(Client("one\ntwo\nthree\n", [error])), "7", printed.append) == 3
        assert "".join(printed) == "one\ntwo\nthree\n"


def test_the_exit_code_is_returned_without_the_end_of_the_log() -> None:
    printed: list[str] = []
    client = Client("one\ntwo\n", [RuntimeError("no UTF-8")], RuntimeError("status code 500"))
    assert follow(connected(client), "7", printed.append) == 3
    assert "cannot be read: The cluster at http://head:8265 reports: status code 500" in "".join(printed)


def test_an_error_of_write_ends_following() -> None:
    def write(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(connected(Client("one\n", [])), "7", write)
