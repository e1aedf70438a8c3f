"""Jobs on a Ray cluster: submitted over HTTP, followed, stopped, listed, and their runs fetched.

The cluster gets distnum itself with the job, and the user's script; Ray, Python and distnum's
dependencies must be there. The run stays on the head, from where ``fetch`` brings it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Any

import distnum
from distnum.cli.submit.connection import (
    causes,
    check_certificates,
    check_http,
    client_class,
    no_other_address,
    read_token,
)
from distnum.cli.submit.transfer import RUNS, unpack
from distnum.common.errors import InputError, TrainingError
from distnum.common.requirements import REQUIREMENTS
from distnum.common.text import first_line
from distnum.storage.mirror import Mirror
from distnum.storage.uris import is_uri, on_a_disk
from distnum.workers.ray_pool.session import ray_module

__all__ = ["Cluster", "Submission"]


# A job that is stopped has so long to finish its step and save its state; Ray then kills it.
_STOP_S = 600
_END_TIMEOUT_S = 120.0
_NO_AGENT_S = 20.0
_LOOK_S = 0.5

# A connection that tells nothing for so long is made anew; a cluster out of reach for so long is given up.
_SILENT_S, _LOST_S = 120.0, 60.0

# The library below closes a TLS connection after the call that has used it, and asks for so long (aiohttp,
# "Graceful shutdown"); without, the event loop ends before and leaves the socket open.
_TLS_CLOSE_S = 0.25

# Of what belongs to a job, in Ray's record of it, which anybody on the cluster can read.
_COMMAND, _OUT = "distnum_command", "distnum_out"
STOPPED = 130

# Parts of Ray that tell how they pack and connect.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Submission:
    """A job of distnum's on a cluster.

    Attributes:
        number: Ray's submission id.
        status: as Ray calls it: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: what it runs.
        out: folder on the cluster's head, or URI, where its run is kept.
        started: when, in UTC; None if it has not.
    """

    number: str
    status: str
    command: str
    out: str
    started: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Cluster:
    """A Ray cluster, by the address of its dashboard.

    Args:
        address: ``http://HEAD:8265`` or ``https://...``.
        token_file: holds the cluster's token; by default ``RAY_AUTH_TOKEN``, the file of
            ``RAY_AUTH_TOKEN_PATH``, or with ``RAY_AUTH_MODE=token`` that of Ray.
        ca_file: certificates to trust for ``https``.

    Raises:
        InputError: nothing that fits listens there, or the token is not right.
    """

    def __init__(self, address: str, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        self.address = address
        check_http(address)
        token = read_token(token_file)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if ca_file is not None:
            check_certificates(ca_file)
        verify: bool | str = True if ca_file is None else str(ca_file)
        self._secret = token
        with ray_module({}), self._clear_errors():
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.ERROR)
            with no_other_address():
                self._client = client_class()(address, headers=headers, verify=verify)
            self._client.list_jobs()  # is asked for the token, if one is wanted

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """What Ray and the network say, in a line of ours."""
        try:
            yield
        except (InputError, TrainingError):
            raise
        except Exception as error:
            text = first_line(error)
            if self._secret:
                text = text.replace(self._secret, "...")
            if "ray[default]" in text:
                raise InputError("submit needs Ray's job client; install it: pip install 'distnum[cluster]'.") from None
            if type(error).__name__ == "AuthenticationError" or "status code 401" in text or "status code 403" in text:
                raise InputError(
                    f"address is {self.address!r}, a cluster that asks for another token; give it with --token-file, "
                    "or set RAY_AUTH_TOKEN."
                ) from None
            if "CERTIFICATE_VERIFY_FAILED" in causes(error):
                raise InputError(
                    f"address is {self.address!r}, whose certificate is not trusted here; give a file of certificates "
                    "to trust with --ca-file."
                ) from None
            if isinstance(error, OSError):
                raise InputError(
                    f"address is {self.address!r}, where no Ray cluster answers ({text.rstrip('.')}); it must be "
                    "http://HEAD:8265 of a cluster whose dashboard runs."
                ) from None
            if isinstance(error, (RuntimeError, ValueError, KeyError, TypeError)):
                raise TrainingError(f"The cluster at {self.address} says: {text}") from error
            raise

    # --- submitting ---------------------------------------------------------------

    def submit(self, arguments: Sequence[str], script: Path | None = None) -> Submission:
        """Start a command of distnum's, or a script, on the cluster.

        Args:
            arguments: of the command, with its name; of the script, if there is one.
            script: a Python file, sent with its folder.
        """
        number = f"distnum-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{token_hex(2)}"
        runtime_env = _with_distnum()
        if script is not None:
            if not script.is_file():
                raise InputError(f"script is {str(script)!r}, which is not found; it must be a Python file.")
            runtime_env["working_dir"] = str(script.resolve().parent)
            out, command = "", ["script", script.name, *arguments]
        else:
            command, out = _with_out(list(arguments), number)
        entrypoint = shlex.join(["python", "-m", "distnum.cli.on_cluster", *command])
        shown = shlex.join([script.name, *arguments] if script is not None else command)
        self._send(
            entrypoint=entrypoint,
            submission_id=number,
            runtime_env=runtime_env,
            metadata={_COMMAND: shown, _OUT: out},
        )
        return self.job(number)

    def _send(self, **job: Any) -> None:
        """Submit a job; a cluster that has just started may have nobody yet to start it."""
        deadline = monotonic() + _NO_AGENT_S
        while True:
            try:
                with self._clear_errors():
                    self._client.submit_job(**job)
                return
            except TrainingError as error:
                if "No available agent" not in str(error) or monotonic() > deadline:
                    raise
            sleep(_LOOK_S)

    # --- what there is ------------------------------------------------------------

    def job(self, number: str) -> Submission:
        """The job of that number.

        Raises:
            InputError: there is none.
        """
        return self._told(self._info(number))

    def _info(self, number: str) -> Any:
        try:
            with self._clear_errors():
                return self._client.get_job_info(number)
        except TrainingError as error:
            if "404" in str(error) or "does not exist" in str(error):
                raise InputError(f"job is {number!r}, which the cluster does not know; see --list.") from None
            raise

    def jobs(self) -> list[Submission]:
        """All jobs that distnum has submitted there, the newest first."""
        with self._clear_errors():
            found = self._client.list_jobs()
        ours = [self._told(info) for info in found if (info.metadata or {}).get(_COMMAND)]
        return sorted(ours, key=lambda job: job.number, reverse=True)

    def _told(self, info: Any) -> Submission:
        metadata = info.metadata or {}
        started = datetime.fromtimestamp(info.start_time / 1000, timezone.utc) if info.start_time else None
        status = str(getattr(info.status, "value", info.status))
        return Submission(info.submission_id, status, metadata.get(_COMMAND, ""), metadata.get(_OUT, ""), started)

    # --- following and ending -----------------------------------------------------

    def follow(self, number: str, write: Callable[[str], Any]) -> int:
        """Pass on what a job prints until it ends; returns its exit code, 130 if it was stopped.

        Raises:
            TrainingError: the cluster is out of reach for long, or the job did not run.
        """
        self.job(number)
        n_written = 0

        async def tail() -> None:
            nonlocal n_written
            n_seen = 0  # a new connection begins at the beginning
            tailing = self._client.tail_job_logs(number)
            try:
                while (text := await self._next_text(tailing)) is not None:
                    n_seen += len(text)
                    if n_seen > n_written:
                        write(text[-(n_seen - n_written) :])
                        n_written = n_seen
            finally:
                if self.address.startswith("https"):
                    await asyncio.sleep(_TLS_CLOSE_S)

        asyncio.run(tail())
        while not self._job_at_last(number).ended:
            sleep(_LOOK_S)  # the connection was lost; the job goes on
            asyncio.run(tail())
        info = self._info(number)
        try:
            with self._clear_errors():
                rest = self._client.get_job_logs(number)[n_written:]
        except (InputError, TrainingError) as error:
            write(f"distnum: the end of what the job has printed cannot be had: {error}\n")
        else:
            write(rest)
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            return STOPPED
        if info.driver_exit_code is None:
            raise TrainingError(f"Job {number} did not run: {' '.join(str(info.message).split())[:500]}")
        return int(info.driver_exit_code)

    async def _next_text(self, tailing: AsyncIterator[str]) -> str | None:
        """What a job has printed next; None where it has ended, or nothing more comes over this connection."""
        from aiohttp import ClientError

        try:
            return await asyncio.wait_for(tailing.__anext__(), _SILENT_S)
        except (StopAsyncIteration, RuntimeError, OSError, ClientError, asyncio.TimeoutError):
            return None

    def _job_at_last(self, number: str) -> Submission:
        """The job, also where the cluster is out of reach for a moment."""
        deadline = monotonic() + _LOST_S
        while True:
            try:
                return self.job(number)
            except (InputError, TrainingError) as error:
                if monotonic() > deadline:
                    raise TrainingError(f"{error} The job may go on; look for it with: --follow {number}") from None
            sleep(_LOOK_S)

    def stop(self, number: str) -> Submission:
        """Ask a job to end, as SIGTERM does: a training finishes its step and saves its state first.

        Waits until it has ended; after ten minutes it is killed.
        """
        if self.job(number).ended:
            return self.job(number)
        with self._clear_errors():
            self._client.stop_job(number)
        return self._wait_for_end(number, _STOP_S + _END_TIMEOUT_S)

    def _wait_for_end(self, number: str, timeout_s: float) -> Submission:
        deadline = monotonic() + timeout_s
        while not (job := self.job(number)).ended:
            if monotonic() > deadline:
                raise TrainingError(f"Job {number} has not ended within {timeout_s:.0f} s; it is {job.status}.")
            sleep(_LOOK_S)
        return job

    # --- fetching -----------------------------------------------------------------

    def fetch(self, number: str, to: Path) -> Path:
        """Bring the run of a job from the head into a folder here; returns that.

        Raises:
            InputError: the job keeps no run, or the folder is not empty.
            TrainingError: what comes is not whole.
        """
        job = self.job(number)
        if not job.out:
            raise InputError(
                f"job is {number!r}, a script, which keeps its files where it likes; it cannot be fetched."
            )
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise InputError(f"out is {str(to)!r}, where something is; it must be a new folder, or an empty one.")
        if is_uri(job.out) and not on_a_disk(job.out):
            mirror = Mirror(job.out)
            try:
                if not mirror.names():
                    raise InputError(f"job is {number!r}, whose run at {job.out} has not been written yet.")
                mirror.fetch()
                shutil.copytree(mirror.folder, to, dirs_exist_ok=True)
            except OSError as error:
                raise TrainingError(f"{error.filename or to} cannot be written: {error.strerror}.") from None
            finally:
                mirror.close()
            return to
        packing = f"{number}-fetch-{token_hex(2)}"
        self._send(
            entrypoint=shlex.join(["python", "-m", "distnum.cli.on_cluster", "pack", job.out]),
            submission_id=packing,
            runtime_env=_with_distnum(),
        )
        ended = self._wait_for_end(packing, _END_TIMEOUT_S)
        with self._clear_errors():
            log = self._client.get_job_logs(packing)
            self._client.delete_job(packing)
        if ended.status != "SUCCEEDED":
            lines = [line for line in log.splitlines() if line.startswith("distnum: ")]
            raise InputError(lines[-1].removeprefix("distnum: ") if lines else f"job {packing} failed on the cluster.")
        unpack(log, to)
        return to


def _with_distnum() -> dict[str, Any]:
    """A runtime environment that brings this distnum along, and says what it needs."""
    return {
        "py_modules": [str(Path(distnum.__file__).resolve().parent)],
        "excludes": ["**/__pycache__/", "*.nbi", "*.nbc"],
        "env_vars": {
            REQUIREMENTS: json.dumps(_requirements()),
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S),  # Ray would kill it after three seconds
        },
    }


def _requirements() -> list[str]:
    """What distnum needs, as it was installed."""
    try:
        return [text for text in requires("distnum") or [] if "extra ==" not in text]
    except PackageNotFoundError:
        return []


def _with_out(arguments: list[str], number: str) -> tuple[list[str], str]:
    """The command on the cluster, with the folder where its run is kept there."""
    command, *rest = arguments
    if command == "resume":
        out = rest[0]
    else:
        out = ""
        for place, argument in enumerate(rest):
            if argument == "--out" and place + 1 < len(rest):
                out = rest[place + 1]
            elif argument.startswith("--out="):
                out = argument.removeprefix("--out=")
        if not out:
            out = number
            rest += ["--out", out]
    where = out if is_uri(out) or out.startswith(("/", "~")) else f"{RUNS}/{out}"
    return [command, *rest, "--address", "auto"], where
