"""Ray sessions of the command line: started by it, or already running."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import distnum
from tests.cli.processes import (
    DISTNUM,
    run,
    sha256,
    wait_for,
)

pytestmark = pytest.mark.process


def test_an_address_of_another_server_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("train", "--address", f"127.0.0.1:{port}", "--out", "run", cwd=tmp_path)
        thread.join()
    assert done.returncode == 2
    assert "a server that is not Ray listens there" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_processes_of_the_user_outlive_the_ray_session(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, distnum\n"
        "steps = distnum.steps(steps=2, hidden=3, workers=1)\n"
        "next(steps)\n"
        "mine = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "list(steps)\n"
        "mine.communicate(b'\\n')\n"
        "print(mine.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "0", done.stderr


def test_a_running_cluster_is_used_with_its_token(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    temporary = Path(tempfile.mkdtemp(prefix="dn", dir="/tmp"))  # names of sockets must be short
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={temporary}"]
    head = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    del environment["RAY_AUTH_MODE"]
    train = [*DISTNUM, "train", *("--steps", "3", "--hidden", "5", "--address", f"127.0.0.1:{port}", "--workers", "2")]

    def trained() -> subprocess.CompletedProcess[str]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return subprocess.run(
            [*train, "--out", "run"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    try:
        wait_for(
            lambda: (done := trained()).returncode == 0 and "2 on Ray" in done.stderr, 90, "a training on the head"
        )
        assert head.poll() is None
    finally:
        children = psutil.Process(head.pid).children(recursive=True)
        for process in (*children, head):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(timeout=30)
        shutil.rmtree(temporary, ignore_errors=True)
    assert sha256(tmp_path / "run") == distnum.train(steps=3, hidden=5, workers=0).params_sha256


def test_two_trainings_at_once_after_ray_was_imported(tmp_path: Path) -> None:
    code = (
        "import ray, distnum\n"
        "first = distnum.steps(hidden=4, steps=2, workers=1)\n"
        "second = distnum.steps(hidden=4, steps=4, workers=1)\n"
        "next(first), next(second)\n"
        "print([step.step for step in first], [step.step for step in second], ray.is_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout == "[2] [2, 3, 4] False\n", done.stderr
