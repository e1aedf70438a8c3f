"""The command line as processes: one of each command, Ray sessions of its own, and several processes at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
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
from tests.system.processes import DISTNUM, LONG, checkpoints, descendants, run, sha256, started, wait_for


def test_a_run_is_trained_evaluated_plotted_and_trained_further(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    trained = run("train", "--workers", "0", "--steps", "3", "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0
    assert "step 3/3" in trained.stderr
    assert sha256(tmp_path / "run") in trained.stdout
    evaluated = json.loads(run("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert evaluated["accuracy"] == json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]
    assert run("plot", "run", cwd=tmp_path).stdout.split() == ["run/loss.png", "run/weights.png"]
    assert (tmp_path / "run" / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert run("resume", "run", "--steps", "5", cwd=tmp_path).returncode == 0
    assert sha256(tmp_path / "run") == distnum.train(steps=5, workers=0).params_sha256


@pytest.mark.ray
def test_workers_import_nothing_from_the_folder_in_which_the_command_runs(tmp_path: Path) -> None:
    for name in ("distnum", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    command = [Path(sys.executable).parent / "distnum", "train", "--steps", "2", "--workers", "1", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.ray
def test_a_killed_worker_leaves_the_bits_and_the_standard_output_clean(tmp_path: Path) -> None:
    with started("train", *LONG, "--workers", "2", "--out", "run", "--json", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        worker = next(one for one in descendants(process) if "DistnumWorker" in " ".join(one.cmdline()))
        worker.kill()
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    expected = distnum.train(hidden=20, steps=150, batch_size=50, workers=0).params_sha256
    assert json.loads(out)["params_sha256"] == expected


@pytest.mark.slow
@pytest.mark.ray
def test_an_interrupted_experiment_prints_how_to_continue(tmp_path: Path) -> None:
    few = ["--workers", "1", "--hidden", "8", "--steps", "5", "--repeats", "1000", "--out", "scaling"]
    with started("scale", *few, cwd=tmp_path) as process:
        wait_for((tmp_path / "scaling" / "scaling.json").exists, 60, "a measurement")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "distnum: interrupted; the measurements are saved. Continue with --resume --out scaling" in stderr
    assert "***" not in stderr


# --- several processes at once ----------------------------------------------------


@pytest.mark.slow
def test_a_run_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--steps", "100000", "--workers", "0", "--out", "run", cwd=tmp_path):
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        second = run("resume", "run", cwd=tmp_path)
    assert second.returncode == 2
    assert "is in use: another distnum process" in second.stderr


@pytest.mark.slow
def test_runs_started_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    arguments = [*DISTNUM, "train", "--workers", "0", "--steps", "1", "--quiet"]
    processes = [subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    stderr = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, stderr
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 4


# --- Ray sessions -----------------------------------------------------------------


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


@pytest.mark.slow
@pytest.mark.ray
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


@pytest.mark.slow
@pytest.mark.ray
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


@pytest.mark.slow
@pytest.mark.ray
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
