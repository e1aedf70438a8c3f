"""Run the command line as a process of its own, and look at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

DISTNUM = [sys.executable, "-m", "distnum"]
# Long enough for a signal in the middle, short enough to wait for the end.
LONG = ["--hidden", "20", "--steps", "150", "--batch-size", "50", "--checkpoint-every", "7"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*DISTNUM, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``distnum`` is this checkout's."""
    command = command.replace("distnum ", f"{sys.executable} -m distnum ")
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def default_signals() -> None:
    """Handle signals as in a command of a shell, even if the tests run under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def started(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, program: Sequence[str] = DISTNUM
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own, as a shell does; kill it at the end."""
    process = subprocess.Popen(
        [*program, *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait until a condition holds; fail after some seconds, with a message that names ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run."""
    return list((out / "checkpoints").glob("step-*"))


def sha256(out: Path) -> str:
    """Return the checksum of the parameters in a run's result."""
    result: dict[str, str] = json.loads((out / "result.json").read_text())
    return result["params_sha256"]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that a process and its children have started."""
    return psutil.Process(process.pid).children(recursive=True)


def have_ended(processes: list[psutil.Process]) -> bool:
    """Return whether all processes have ended."""
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def listening_addresses(pids: list[int]) -> set[tuple[str, int]]:
    """Return the addresses and ports on which some processes listen."""
    connections = psutil.net_connections("inet")
    return {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN and one.pid in pids}
