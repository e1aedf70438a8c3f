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
class TestInAFolderWithModulesOfTheSameNames:
    """One training there, one of whose workers is killed, so that another one starts."""

    @pytest.fixture(scope="class")
    @staticmethod
    def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        """The folder, and the standard output."""
        folder = tmp_path_factory.mktemp("run")
        for name in ("distnum", "numpy"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")
        command = [str(Path(sys.executable).parent / "distnum")]  # "python -m" imports from the folder
        options = ("--workers", "2", "--out", "run", "--json")
        with started("train", *LONG, *options, cwd=folder, program=command) as process:
            wait_for(lambda: checkpoints(folder / "run"), 60, "a checkpoint")
            worker = next(one for one in descendants(process) if "DistnumWorker" in " ".join(one.cmdline()))
            worker.kill()
            out, stderr = process.communicate(timeout=90)
        assert process.returncode == 0, stderr
        return folder, out

    def test_a_killed_worker_leaves_the_bits_and_the_standard_output_clean(self, trained: tuple[Path, str]) -> None:
        expected = distnum.train(hidden=20, steps=150, batch_size=50, workers=0).params_sha256
        assert json.loads(trained[1])["params_sha256"] == expected

    def test_workers_import_nothing_from_the_folder(self, trained: tuple[Path, str]) -> None:
        assert not (trained[0] / "executed").exists()


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
