"""A stopped, interrupted or killed run is resumed to the bits of an undisturbed run, and leaves no process behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import distnum
from distnum.storage.run_folder import RunFolder
from tests.system.helpers import SMALL
from tests.system.processes import LONG, checkpoints, descendants, have_ended, run, sha256, started, wait_for

RUN: dict[str, Any] = {**SMALL, "steps": 12, "workers": 0}


@cache
def undisturbed() -> str:
    """Return the checksum after an undisturbed run."""
    return distnum.train(**RUN).params_sha256


# --- in this process --------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4, 7, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_stopped_run_is_resumed_to_the_same_bits(tmp_path: Path, stop_at: int, optimizer: str) -> None:
    options: dict[str, Any] = {**RUN, "optimizer": optimizer, "schedule": "cosine"}
    expected = distnum.train(**options)
    out = tmp_path / "run"
    stopped = distnum.train(**options, out=out, on_step=lambda step, row: step.step == stop_at)
    assert not stopped.completed
    assert not (out / "result.json").exists()
    resumed = distnum.train(out=out, resume=True)
    assert resumed.completed
    assert resumed.params_sha256 == expected.params_sha256
    assert [row["step"] for row in resumed.metrics] == list(range(1, 13))
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in expected.metrics]


def test_an_interruption_saves_the_last_whole_step(tmp_path: Path) -> None:
    def interrupt(step: Any, row: Any) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        distnum.train(**RUN, out=out, on_step=interrupt)
    assert distnum.train(out=out, resume=True).params_sha256 == undisturbed()


def test_a_truncated_checkpoint_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    distnum.train(**RUN, out=out, checkpoint_every=3, on_step=lambda step, row: step.step == 7)
    newest = out / "checkpoints" / "step-00000007.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    resumed = distnum.train(out=out, resume=True)
    assert "step-00000007.safetensors is skipped" in caplog.text
    assert resumed.params_sha256 == undisturbed()


def test_a_complete_run_can_be_trained_further(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**{**RUN, "steps": 5}, out=out)
    assert distnum.train(out=out, resume=True, steps=12).params_sha256 == undisturbed()


def test_a_new_number_of_steps_is_kept_for_the_next_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**{**RUN, "steps": 5}, out=out)
    assert RunFolder.look(out).result(5) is not None
    distnum.train(out=out, resume=True, steps=12, on_step=lambda step, row: step.step == 8)
    assert RunFolder.look(out).result(12) is None
    assert distnum.train(out=out, resume=True).params_sha256 == undisturbed()


# --- processes --------------------------------------------------------------------

FIRST_WORDS = {"network", "data", "gradient", "resuming", "workers", "compiling", "estimate", "step"}


@cache
def long_run() -> str:
    """Return the checksum after the run of ``LONG``."""
    return distnum.train(hidden=20, steps=150, batch_size=50, workers=0).params_sha256


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_run_and_resume_gives_the_same_bits(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Continue with: distnum resume run" in stderr
    assert not (out / "result.json").exists()
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == long_run()


def test_a_run_whose_driver_was_killed_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.kill()
        process.wait(timeout=30)
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == long_run()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 151))


@pytest.mark.ray
def test_a_driver_killed_while_ray_starts_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="dn", dir="/tmp"))  # names of sockets must be short
    environment = {**os.environ, "RAY_TMPDIR": str(temporary)}
    try:
        with started("train", *LONG, "--out", "run", cwd=tmp_path, env=environment) as process:
            wait_for(lambda: len(descendants(process)) > 2, 90, "Ray's first process")
            children = descendants(process)
            process.kill()
            process.wait(timeout=30)
        wait_for(lambda: have_ended(children), 20, "the end of all processes")
        wait_for(lambda: not list(temporary.iterdir()), 20, "the removal of Ray's folder")
        assert have_ended(children)
        assert not list(temporary.iterdir())
    finally:
        shutil.rmtree(temporary)


@pytest.mark.slow
@pytest.mark.ray
def test_a_signal_to_the_process_group_while_ray_starts_ends_training_at_once(tmp_path: Path) -> None:
    with started("train", *LONG, "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: len(descendants(process)) > 2, 90, "Ray's first process")
        children = descendants(process)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=25)  # Ray alone would wait 30 s
    assert process.returncode == 130, stderr
    assert stderr.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: have_ended(children), 20, "the end of all processes")


@pytest.mark.ray
def test_an_interrupted_training_on_ray_leaves_no_process_and_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = descendants(process)
        assert len(children) > 3
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: the whole group
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: have_ended(children), 20, "the end of all processes")
    assert run("resume", "run", "--quiet", "--workers", "0", cwd=tmp_path).returncode == 0
    assert sha256(out) == long_run()


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_killed_on_ray_leaves_no_process_and_its_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = descendants(process)
        process.kill()
        _, stderr = process.communicate(timeout=30)
    assert stderr.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: have_ended(children), 30, "the end of all processes")
    done = run("resume", "run", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert sha256(out) == long_run()
    # Ray prints nothing.
    assert all(line.split()[0] in FIRST_WORDS for line in done.stderr.splitlines()), done.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_ray_prints_nothing_after_sigterm(tmp_path: Path) -> None:
    with started("train", *LONG, "--workers", "1", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "***" not in stderr
    assert "SIGTERM" not in stderr
    assert "Continue with: distnum resume run" in stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("server", "number", "reason"),
    [
        ("gcs_server", signal.SIGKILL, "the control service has not answered"),
        ("gcs_server", signal.SIGSTOP, "the control service has not answered"),
        ("raylet", signal.SIGKILL, "the raylet of this machine has ended"),
        ("raylet", signal.SIGSTOP, "the raylet of this machine has not answered"),
    ],
)
def test_a_training_whose_ray_session_is_lost_saves_its_state_and_ends(
    server: str, number: signal.Signals, reason: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    endless = ["--hidden", "8", "--steps", "1000000", "--batch-size", "20", "--workers", "2", "--out", "run"]
    temporary = Path(tempfile.mkdtemp(prefix="dn", dir="/tmp"))  # names of sockets must be short
    with started("train", *endless, cwd=tmp_path, env={**os.environ, "TMPDIR": str(temporary)}) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = descendants(process)
        next(child for child in children if child.name() == server).send_signal(number)
        _, stderr = process.communicate(timeout=40)
    temporary.rmdir()  # which fails unless it is empty
    assert process.returncode == 1, stderr
    assert reason in stderr.splitlines()[-1], stderr
    assert stderr.rstrip().endswith("The run is saved. Continue with: distnum resume run")
    assert "raylet.cc" not in stderr  # nothing of Ray's logs
    wait_for(lambda: have_ended(children), 20, "the end of all processes")
    done = len((out / "metrics.jsonl").read_text().splitlines())
    assert max(checkpoints(out)).stem == f"step-{done:08d}"  # no step is lost
    assert run("resume", "run", "--steps", str(done + 3), "--workers", "0", cwd=tmp_path).returncode == 0
    assert sha256(out) == distnum.train(hidden=8, batch_size=20, steps=done + 3, workers=0).params_sha256


@pytest.mark.slow
@pytest.mark.ray
def test_a_short_pause_of_the_control_service_is_survived(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--steps", "4000", "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        server = next(child for child in descendants(process) if child.name() == "gcs_server")
        server.suspend()
        time.sleep(3)  # the pause itself
        server.resume()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
