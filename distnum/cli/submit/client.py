"""Jobs on a Ray cluster: submitted over HTTP, listed, stopped, and their runs fetched.

A job brings distnum itself and the user's script to the cluster; Python, Ray and distnum's
dependencies must be installed there. The run stays on the head until ``fetch`` copies it.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Any

from distnum.cli.submit.connection import Connection
from distnum.cli.submit.follow import ENDED, follow, status_of
from distnum.cli.submit.script_folder import remarks_on, sent_files
from distnum.cli.submit.transfer import RUNS, run_argument, unpack
from distnum.common.errors import InputError, TrainingError
from distnum.common.requirements import REQUIREMENTS
from distnum.common.text import first_line
from distnum.storage.mirror import Mirror
from distnum.storage.uris import is_uri, on_a_disk

__all__ = ["Cluster", "Submission"]

log = logging.getLogger("distnum")

# Time for a stopped job to finish its step and save its state, before Ray kills it.
_STOP_S = 600
_END_TIMEOUT_S = 120.0
_NO_AGENT_S = 20.0
_LOOK_S = 0.5

# Keys of a job's metadata in Ray's record of it, which everybody on the cluster can read.
_COMMAND, _OUT = "distnum_command", "distnum_out"

_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Submission:
    """A job that distnum has submitted to a cluster.

    Attributes:
        number: Ray's submission ID.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, as Ray names them.
        command: The command or script of the job, with its arguments.
        out: The folder on the cluster's head, or the URI, that holds the job's run; empty for a script.
        started: Start time in UTC; None if the job has not started.
    """

    number: str
    status: str
    command: str
    out: str
    started: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Cluster:
    """A Ray cluster, at the address of its dashboard.

    Args:
        address, token_file, ca_file: See ``Connection``.

    Raises:
        InputError: No Ray cluster answers at the address, or the token or a file cannot be used.
    """

    def __init__(self, address: str, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        self._connection = Connection(address, token_file, ca_file)
        self._token_file = token_file

    def submit(self, arguments: Sequence[str], script: Path | None = None, folder: Path | None = None) -> Submission:
        """Start a command of distnum, or a script, on the cluster.

        Args:
            arguments: The command's name and arguments, or those of the script.
            script: A Python file, sent with its folder.
            folder: A folder that is sent with the command; the command runs in it.

        Raises:
            InputError: The script is not found, or the folder cannot be sent.
            TrainingError: The cluster does not take the job.
        """
        number = f"distnum-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{token_hex(2)}"
        runtime_env = _runtime_env()
        if script is not None:
            if not script.is_file():
                raise InputError(f"script is {str(script)!r}, which is not found; it must be a Python file.")
            folder = script.resolve().parent
            shown, out = [script.name, *arguments], ""
            command = ["script", *shown]
        else:
            command, out = _with_out(list(arguments), number)
            shown = command
        if folder is not None:
            runtime_env["working_dir"] = str(folder)
            self._warn_of_files(folder, runtime_env["excludes"])
        self._send(
            entrypoint=_entrypoint(command),
            submission_id=number,
            runtime_env=runtime_env,
            metadata={_COMMAND: shlex.join(shown), _OUT: out},
        )
        return self.job(number)

    def _warn_of_files(self, folder: Path, excludes: Sequence[str]) -> None:
        """Log a warning if files that look secret, or many bytes, are sent with a script."""
        try:
            files = sent_files(folder, excludes)
            remarks = remarks_on(folder, files, self._token_file)
        except (OSError, ValueError) as error:
            raise InputError(f"script is in {str(folder)!r}, which cannot be sent: {first_line(error)}.") from None
        for remark in remarks:
            log.warning(remark)

    def _send(self, **job: Any) -> None:
        """Submit a job; retry while a cluster that has just started has no agent to run it."""
        deadline = monotonic() + _NO_AGENT_S
        while True:
            try:
                with self._connection.clear_errors():
                    self._connection.client.submit_job(**job)
                return
            except TrainingError as error:
                if "No available agent" not in str(error) or monotonic() > deadline:
                    raise
            sleep(_LOOK_S)

    def job(self, number: str) -> Submission:
        """Return the job with a submission ID.

        Raises:
            InputError: The cluster has no such job.
        """
        return _submission(self._connection.job_info(number))

    def jobs(self) -> list[Submission]:
        """Return all jobs that distnum has submitted to the cluster, newest first."""
        with self._connection.clear_errors():
            infos = self._connection.client.list_jobs()
        ours = [info for info in infos if info.submission_id and (info.metadata or {}).get(_COMMAND)]
        submissions = [_submission(info) for info in ours]
        return sorted(submissions, key=lambda job: job.number, reverse=True)

    def follow(self, number: str, write: Callable[[str], Any]) -> int:
        """Pass on what a job prints until it ends; returns its exit code. See ``follow.follow``."""
        return follow(self._connection, number, write)

    def stop(self, number: str) -> Submission:
        """End a job as SIGTERM does and wait for its end: a training finishes its step and saves its state first.

        A job that has not ended after ten minutes is killed.

        Raises:
            InputError: The cluster has no such job.
            TrainingError: The job does not end.
        """
        job = self.job(number)
        if job.ended:
            return job
        with self._connection.clear_errors():
            self._connection.client.stop_job(number)
        return self._wait_for_end(number, _STOP_S + _END_TIMEOUT_S)

    def _wait_for_end(self, number: str, timeout_s: float) -> Submission:
        deadline = monotonic() + timeout_s
        while not (job := self.job(number)).ended:
            if monotonic() > deadline:
                raise TrainingError(f"Job {number} has not ended within {timeout_s:.0f} s; it is {job.status}.")
            sleep(_LOOK_S)
        return job

    def fetch(self, number: str, to: Path) -> Path:
        """Copy the run of a job into a folder of this machine, which must be new or empty; returns the folder.

        Raises:
            InputError: The job has no run, or the folder is not empty.
            TrainingError: The copy is not whole, or cannot be written.
        """
        out = self.job(number).out
        if not out:
            raise InputError(f"job is {number!r}, which keeps no run: a script, or a check.")
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise InputError(f"to is {str(to)!r}, which is not empty; it must be a new folder, or an empty one.")
        if is_uri(out) and not on_a_disk(out):
            _copy_from_uri(out, number, to)
        else:
            unpack(self._packed_on_head(out, number), to)
        return to

    def _packed_on_head(self, out: str, number: str) -> str:
        """The log of a second job, which packs the run on the head."""
        packing = f"{number}-fetch-{token_hex(2)}"
        self._send(entrypoint=_entrypoint(["pack", out]), submission_id=packing, runtime_env=_runtime_env())
        ended = self._wait_for_end(packing, _END_TIMEOUT_S)
        with self._connection.clear_errors():
            log = str(self._connection.client.get_job_logs(packing))
            self._connection.client.delete_job(packing)
        if ended.status != "SUCCEEDED":
            lines = [line for line in log.splitlines() if line.startswith("distnum: ")]
            raise InputError(lines[-1].removeprefix("distnum: ") if lines else f"job {packing} failed on the cluster.")
        return log


def _submission(info: Any) -> Submission:
    metadata = info.metadata or {}
    started = None
    with suppress(ValueError, OverflowError, OSError):  # a time that is none
        started = datetime.fromtimestamp(info.start_time / 1000, timezone.utc) if info.start_time else None
    return Submission(info.submission_id, status_of(info), metadata.get(_COMMAND, ""), metadata.get(_OUT, ""), started)


def _copy_from_uri(uri: str, number: str, to: Path) -> None:
    mirror = Mirror(uri)
    try:
        if not mirror.names():
            raise InputError(f"job is {number!r}, whose run at {uri} has not been written yet.")
        mirror.fetch()
        shutil.copytree(mirror.folder, to, dirs_exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{error.filename or to} cannot be written: {error.strerror}.") from None
    finally:
        mirror.close()


def _entrypoint(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "distnum.cli.on_cluster", *arguments])


def _runtime_env() -> dict[str, Any]:
    """Ray's runtime environment of a job: this distnum, and the packages that it requires."""
    return {
        "py_modules": [str(_PACKAGE)],
        "excludes": ["**/__pycache__/", "*.nbi", "*.nbc"],
        "env_vars": {
            REQUIREMENTS: json.dumps(_requirements()),
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S),  # by default Ray kills a stopped job after three seconds
        },
    }


def _requirements() -> list[str]:
    try:
        return [text for text in requires("distnum") or [] if "extra ==" not in text]
    except PackageNotFoundError:
        return []


def _with_out(command: list[str], number: str) -> tuple[list[str], str]:
    """The command for the head, with a name for its run, and the folder on the head or the URI of the run."""
    if command[0] == "check":  # it prints its result, and keeps nothing
        return [*command, "--address", "auto"], ""
    argument = run_argument(command)
    out = argument[2] if argument else number
    if argument is None:
        command = [*command, "--out", out]
    where = out if is_uri(out) or out.startswith(("/", "~")) else f"{RUNS}/{out}"
    return [*command, "--address", "auto"], where
