"""The command line as users run it: a process of its own, its output, its signals, its exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import distnum
from distnum import TrainingError
from distnum.cli.main import main
from distnum.common.text import duration

pytestmark = pytest.mark.process

DISTNUM = [sys.executable, "-m", "distnum"]
# Long enough to be hit in the middle, short enough to wait for.
LONG = ["--hidden", "20", "--steps", "150", "--batch-size", "50", "--checkpoint-every", "7"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DISTNUM, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def _listen_to_signals() -> None:
    """As a shell starts a command, also where these tests run under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def started(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a shell would start it."""
    process = subprocess.Popen(
        [*DISTNUM, *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_listen_to_signals,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def checkpoints(out: Path) -> list[Path]:
    return list((out / "checkpoints").glob("step-*"))


def sha256(out: Path) -> str:
    told: dict[str, str] = json.loads((out / "result.json").read_text())
    return told["params_sha256"]


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return distnum.train(hidden=20, steps=150, batch_size=50, workers=0).params_sha256


def test_help_is_quick_because_it_loads_little() -> None:
    code = (
        "import sys\nfrom distnum.cli.main import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'ray', 'numba', 'matplotlib', 'rich', 'scipy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for option in ("--workers", "--learning-rate", "--h ", "--config", "--out", "--threads-per-worker"):
        assert option in done.stdout


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["train"], ["resume"], ["evaluate"], ["predict"], ["plot"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        assert "usage: distnum" in capsys.readouterr().out


def test_train_says_what_it_will_cost_and_what_came_of_it(tmp_path: Path) -> None:
    done = run("train", "--workers", "0", "--steps", "3", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0
    for words in ("784-50-10", "39,760 parameters", "79,520 loss evaluations a step", "estimate  3 steps", "step 3/3"):
        assert words in done.stderr
    for words in ("trained   3 steps", "test accuracy", sha256(tmp_path / "run"), "kept in   run"):
        assert words in done.stdout


def test_without_out_the_run_is_kept_under_runs(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("train", "--workers", "0", "--steps", "1", "--quiet", cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_json_is_one_object_and_quiet_is_silent(tmp_path: Path) -> None:
    done = run("train", "--workers", "0", "--steps", "2", "--json", "--quiet", "--out", "run", cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout)["params_sha256"] == sha256(tmp_path / "run")
    evaluated = json.loads(run("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert evaluated["accuracy"] == json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]


def test_a_config_file_is_used_again_and_options_go_before_it(tmp_path: Path) -> None:
    options = ["--workers", "0", "--steps", "2", "--hidden", "5,4", "--activation", "tanh", "--quiet"]
    assert run("train", *options, "--out", "first", cwd=tmp_path).returncode == 0
    again = ["train", "--config", "first/config.toml", "--quiet"]
    assert run(*again, "--out", "second", cwd=tmp_path).returncode == 0
    assert run(*again, "--seed", "1", "--out", "third", cwd=tmp_path).returncode == 0
    first, second, third = (sha256(tmp_path / name) for name in ("first", "second", "third"))
    assert first == second != third


@pytest.mark.ray
def test_large_batches_get_the_same_bits_on_workers_that_share_the_forward_pass(tmp_path: Path) -> None:
    options = ["--steps", "4", "--hidden", "12,9", "--batch-size", "500", "--quiet"]
    for workers in ("0", "3"):
        assert run("train", *options, "--workers", workers, "--out", workers, cwd=tmp_path).returncode == 0
    assert sha256(tmp_path / "3") == sha256(tmp_path / "0")


def test_plot_draws_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    run("train", "--workers", "0", "--steps", "3", "--out", "run", "--quiet", cwd=tmp_path)
    done = run("plot", "run", cwd=tmp_path)
    assert done.stdout.split() == ["run/loss.png", "run/weights.png"]
    assert (tmp_path / "run" / "weights.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_run_and_resume_ends_it_with_the_same_bits(
    tmp_path: Path, undisturbed: str, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Continue with: distnum resume run" in told
    assert not (out / "result.json").exists()
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == undisturbed


def test_a_killed_driver_loses_nothing(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.kill()
        process.wait(timeout=30)
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == undisturbed
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 151))


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--steps", "100000", "--workers", "0", "--out", "run", cwd=tmp_path):
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        second = run("resume", "run", cwd=tmp_path)
    assert second.returncode == 2
    assert "is in use: another distnum process" in second.stderr


def test_resuming_a_complete_run_says_so(tmp_path: Path) -> None:
    run("train", "--workers", "0", "--steps", "1", "--out", "run", "--quiet", cwd=tmp_path)
    done = run("resume", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert "is complete; there is nothing to resume" in done.stderr


def test_resuming_a_complete_run_prints_its_result_where_asked(tmp_path: Path) -> None:
    first = run("train", "--workers", "0", "--steps", "1", "--out", "run", "--json", cwd=tmp_path)
    again = run("resume", "run", "--json", "--quiet", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_runs_begun_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    arguments = [*DISTNUM, "train", "--workers", "0", "--steps", "1", "--quiet"]
    processes = [subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 4


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    assert run("train", "--workers", "0", "--data", "missing", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = command.replace("distnum ", f"{sys.executable} -m distnum ")
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_remarks_that_nobody_can_read_do_not_end_the_training(tmp_path: Path) -> None:
    train = "distnum train --workers 0 --steps 3 --evaluate-every 1"
    closed = shell(f"{train} --out closed 2>&-", tmp_path)
    assert closed.returncode == 0
    assert closed.stdout.startswith("trained   3 steps")
    shell(f"{train} --out piped 2>&1 | head -1", tmp_path)
    full = shell(f"{train} --out full 2>/dev/full", tmp_path)
    assert full.returncode == 0
    assert sha256(tmp_path / "closed") == sha256(tmp_path / "piped") == sha256(tmp_path / "full")


def test_a_result_that_cannot_be_printed_is_kept_and_it_is_said(tmp_path: Path) -> None:
    train = "distnum train --workers 0 --steps 1"
    full = shell(f"{train} --out full >/dev/full", tmp_path)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == "distnum: the standard output cannot be written: No space left on device."
    assert "Exception" not in full.stderr
    closed = shell(f"{train} --out closed --quiet >&-", tmp_path)
    assert (closed.returncode, closed.stderr) == (0, "")
    assert sha256(tmp_path / "full") == sha256(tmp_path / "closed")


def test_a_name_that_the_output_has_no_letters_for_is_printed_all_the_same(tmp_path: Path) -> None:
    done = shell("PYTHONIOENCODING=ascii distnum train --workers 0 --steps 1 --out 'Übung' --quiet --json", tmp_path)
    assert done.returncode == 0, done.stderr
    done = shell("PYTHONIOENCODING=ascii distnum train --workers 0 --steps 1 --out 'Übung2'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kept in   \\xdcbung2" in done.stdout


def test_libraries_warn_in_no_words_of_their_own(tmp_path: Path) -> None:
    done = run("train", "--workers", "0", "--steps", "1", "--init-std", "1e300", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    words = [line.split()[0] for line in done.stderr.splitlines()]
    # Compiling is announced where the disk has no machine code yet.
    assert [word for word in words if word != "compiling"] == [
        *("network", "data", "gradient", "workers", "estimate"),
        "distnum:",
    ]


def test_a_reader_that_leaves_early_is_no_crash(tmp_path: Path) -> None:
    run("train", "--workers", "0", "--steps", "1", "--out", "run", "--quiet", cwd=tmp_path)
    command = f"{sys.executable} -m distnum evaluate run | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


# --- with a Ray of its own ------------------------------------------------------------------


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_an_address_where_something_else_listens_is_refused_at_once(tmp_path: Path) -> None:
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
    assert "something else than Ray listens there" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_processes_of_the_users_outlive_the_session(tmp_path: Path) -> None:
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


def test_a_cluster_that_runs_already_is_used_with_its_token(tmp_path: Path) -> None:
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


def test_killed_while_ray_starts_leaves_nothing(tmp_path: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="dn", dir="/tmp"))  # names of sockets must be short
    environment = {**os.environ, "RAY_TMPDIR": str(temporary)}
    try:
        with started("train", *LONG, "--out", "run", cwd=tmp_path, env=environment) as process:
            wait_for(lambda: len(family(process)) > 2, 90, "Ray's first process")
            children = family(process)
            process.kill()
            process.wait(timeout=30)
        wait_for(lambda: gone(children), 20, "the end of all processes")
        wait_for(lambda: not list(temporary.iterdir()), 20, "the removal of Ray's folder")
        assert gone(children)
        assert not list(temporary.iterdir())
    finally:
        shutil.rmtree(temporary)


def test_a_signal_to_the_whole_group_while_ray_starts_ends_at_once(tmp_path: Path) -> None:
    with started("train", *LONG, "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: len(family(process)) > 2, 90, "Ray's first process")
        children = family(process)
        os.killpg(process.pid, signal.SIGTERM)
        _, told = process.communicate(timeout=25)  # Ray alone would wait 30 s
    assert process.returncode == 130, told
    assert told.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: gone(children), 20, "the end of all processes")


def test_interrupted_on_ray_leaves_no_process_and_resumes(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = family(process)
        assert len(children) > 3
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: the whole group
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: gone(children), 20, "the end of all processes")
    assert run("resume", "run", "--quiet", "--workers", "0", cwd=tmp_path).returncode == 0
    assert sha256(out) == undisturbed


def test_a_driver_killed_on_ray_leaves_no_process_and_resumes(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = family(process)
        process.kill()
        process.wait(timeout=30)
    wait_for(lambda: gone(children), 30, "the end of all processes")
    done = run("resume", "run", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert sha256(out) == undisturbed
    # Ray says nothing of its own.
    assert all(line.split()[0] in KNOWN_FIRST_WORDS for line in done.stderr.splitlines()), done.stderr


KNOWN_FIRST_WORDS = {"network", "data", "gradient", "resuming", "workers", "compiling", "estimate", "step"}


def test_sigterm_on_ray_says_no_more_than_sigint(tmp_path: Path) -> None:
    with started("train", *LONG, "--workers", "1", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "***" not in said
    assert "SIGTERM" not in said
    assert "Continue with: distnum resume run" in said


def test_a_dead_worker_does_not_spoil_the_result_on_the_output(tmp_path: Path, undisturbed: str) -> None:
    with started("train", *LONG, "--workers", "2", "--out", "run", "--json", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        worker = next(one for one in family(process) if "DistnumWorker" in " ".join(one.cmdline()))
        worker.kill()
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert json.loads(out)["params_sha256"] == undisturbed


def test_ray_imported_before_and_two_trainings_at_once(tmp_path: Path) -> None:
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


def test_a_disk_full_at_the_first_checkpoint_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *arguments: Any) -> None:
        raise TrainingError("no room")

    options: dict[str, Any] = {"hidden": 4, "steps": 6, "workers": 0, "checkpoint_every": 3, "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr("distnum.storage.run_folder.RunFolder.save_checkpoint", full)
        with pytest.raises(TrainingError, match="no room"):
            distnum.train(**options)
    resumed = distnum.train(out=tmp_path / "run", resume=True)
    assert resumed.params_sha256 == distnum.train(**{**options, "out": None}).params_sha256


def test_a_damaged_model_of_a_complete_run_is_written_anew(tmp_path: Path) -> None:
    assert run("train", "--workers", "0", "--steps", "2", "--hidden", "4", "--out", "run", cwd=tmp_path).returncode == 0
    model = tmp_path / "run" / "model.safetensors"
    whole = distnum.load(tmp_path / "run")
    model.write_bytes(model.read_bytes()[:3000])
    done = run("resume", "run", "--workers", "0", cwd=tmp_path)
    assert done.returncode == 0
    assert "It is written anew." in done.stderr
    np.testing.assert_array_equal(distnum.load(tmp_path / "run").params, whole.params)


def test_the_estimate_counts_evaluations_and_checkpoints(tmp_path: Path) -> None:
    estimates = []
    for every in ("1", "1000"):
        words = ["--hidden", "4", "--steps", "3", "--evaluate-every", every, "--checkpoint-every", every]
        told = run("train", "--workers", "0", *words, "--out", every, cwd=tmp_path).stderr
        step = re.search(r"steps of about ([\d.]+) (ms|s)", told)
        assert step is not None
        estimates.append(float(step[1]) * (1000 if step[2] == "s" else 1))
    assert estimates[0] > 2 * estimates[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (3.14, "3.1 s"),
        (75, "75 s"),
        (600, "10 min"),
        (1e5, "27 h 47 min"),
        (1e6, "12 days"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_experiment_that_is_ended_says_how_to_go_on(tmp_path: Path) -> None:
    few = ["--workers", "1", "--hidden", "8", "--steps", "5", "--repeats", "1000", "--out", "scaling"]
    with started("scale", *few, cwd=tmp_path) as process:
        wait_for((tmp_path / "scaling" / "scaling.json").exists, 60, "a measurement")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "distnum: interrupted; go on with --resume --out scaling, which has what was measured." in said
    assert "***" not in said
