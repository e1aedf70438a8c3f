"""Following a job on a cluster: its output as it is printed, through lost connections, and its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic, sleep
from typing import Any

from distnum.cli.output import INTERRUPTED
from distnum.cli.submit.connection import Connection
from distnum.common.errors import InputError, TrainingError

__all__ = ["ENDED", "follow", "status_of"]

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
"""The states of a job that has ended, as Ray names them."""

_LOOK_S = 0.5

# A connection that is silent for this long is opened again; a cluster that is unreachable for this long is given up.
_SILENT_S, _LOST_S = 120.0, 60.0

# aiohttp, which Ray's client uses, closes a TLS connection only after the call that used it and asks for a
# short sleep (its documentation, "Graceful shutdown"); otherwise the event loop ends first and leaves the socket open.
_TLS_CLOSE_S = 0.25


def follow(connection: Connection, number: str, write: Callable[[str], Any]) -> int:
    """Pass on what a job prints, from the beginning, until the job ends.

    Args:
        connection: To the job's cluster.
        number: Ray's submission ID of the job.
        write: Called with each piece of the output; what it raises ends following.

    Returns:
        The job's exit code; 130 if the job was stopped.

    Raises:
        InputError: The cluster has no such job.
        TrainingError: The cluster is unreachable for a minute, or the job did not run.
    """
    connection.job_info(number)
    n_written = 0
    while True:
        n_written = asyncio.run(_tail(connection, number, n_written, write))
        info = _info_after_retries(connection, number)
        if status_of(info) in ENDED:
            break
        sleep(_LOOK_S)  # the connection was lost; the job continues
    try:
        with connection.clear_errors():
            rest = connection.client.get_job_logs(number)[n_written:]
    except (InputError, TrainingError) as error:
        write(f"distnum: the end of the job's output cannot be read: {error}\n")
    else:
        write(rest)
    if status_of(info) == "SUCCEEDED":
        return 0
    if status_of(info) == "STOPPED":
        return INTERRUPTED
    if info.driver_exit_code is None:
        raise TrainingError(f"Job {number} did not run: {' '.join(str(info.message).split())[:500]}")
    return int(info.driver_exit_code)


def status_of(info: Any) -> str:
    """The state of a job, from Ray's record of it: PENDING, RUNNING or one of ``ENDED``."""
    return str(getattr(info.status, "value", info.status))


async def _tail(connection: Connection, number: str, n_written: int, write: Callable[[str], Any]) -> int:
    """Pass on the output over one connection; returns the number of characters written so far, over all connections."""
    n_seen = 0  # a new connection sends the output from its beginning
    tailing = connection.client.tail_job_logs(number)
    try:
        while (text := await _next_text(tailing)) is not None:
            n_seen += len(text)
            if n_seen > n_written:
                write(text[-(n_seen - n_written) :])
                n_written = n_seen
    finally:
        if connection.address.startswith("https"):
            await asyncio.sleep(_TLS_CLOSE_S)
    return n_written


async def _next_text(tailing: AsyncIterator[str]) -> str | None:
    """The next piece of the output; None if the job has ended or the connection is lost or silent."""
    from aiohttp import ClientError

    try:
        return await asyncio.wait_for(tailing.__anext__(), _SILENT_S)
    except (StopAsyncIteration, RuntimeError, OSError, ClientError, asyncio.TimeoutError):
        return None


def _info_after_retries(connection: Connection, number: str) -> Any:
    """Ray's record of the job; tries again while the cluster is unreachable for a moment."""
    deadline = monotonic() + _LOST_S
    while True:
        try:
            return connection.job_info(number)
        except (InputError, TrainingError) as error:
            if monotonic() > deadline:
                raise TrainingError(f"{error} The job may still run; look for it with: --follow {number}") from None
        sleep(_LOOK_S)
