"""Signals and killed drivers: no process stays, no step is lost, and ``resume`` gives the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

import distnum
from tests.cli.processes import (
    LONG,
    checkpoints,
    descendants,
    have_ended,
    run,
    sha256,
    started,
    wait_for,
)

pytestmark = pytest.mark.process

FIRST_WORDS = {"network", "data", "gradient", "resuming", "workers", "compiling", "estimate", "step"}


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return distnum.train(hidden=20, steps=150, batch_size=50, workers=0).params_sha256


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_run_and_resume_gives_the_same_bits(
    tmp_path: Path, undisturbed: str, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Continue with: distnum resume run" in stderr
    assert not (out / "result.json").exists()
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == undisturbed


def test_a_run_whose_driver_was_killed_is_resumed_to_the_same_bits(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "0", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        process.kill()
        process.wait(timeout=30)
    assert run("resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert sha256(out) == undisturbed
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 151))


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


def test_a_signal_to_the_process_group_while_ray_starts_ends_training_at_once(tmp_path: Path) -> None:
    with started("train", *LONG, "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: len(descendants(process)) > 2, 90, "Ray's first process")
        children = descendants(process)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=25)  # Ray alone would wait 30 s
    assert process.returncode == 130, stderr
    assert stderr.rstrip().endswith("Continue with: distnum resume run")
    wait_for(lambda: have_ended(children), 20, "the end of all processes")


def test_an_interrupted_training_on_ray_leaves_no_process_and_resumes(tmp_path: Path, undisturbed: str) -> None:
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
    assert sha256(out) == undisturbed


def test_a_driver_killed_on_ray_leaves_no_process_and_resumes(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--workers", "2", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(out), 90, "a checkpoint")
        children = descendants(process)
        process.kill()
        process.wait(timeout=30)
    wait_for(lambda: have_ended(children), 30, "the end of all processes")
    done = run("resume", "run", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert sha256(out) == undisturbed
    # Ray prints nothing.
    assert all(line.split()[0] in FIRST_WORDS for line in done.stderr.splitlines()), done.stderr


def test_sigterm_on_ray_prints_nothing_of_ray(tmp_path: Path) -> None:
    with started("train", *LONG, "--workers", "1", "--out", "run", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "***" not in stderr
    assert "SIGTERM" not in stderr
    assert "Continue with: distnum resume run" in stderr


def test_a_killed_worker_leaves_the_standard_output_clean(tmp_path: Path, undisturbed: str) -> None:
    with started("train", *LONG, "--workers", "2", "--out", "run", "--json", cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        worker = next(one for one in descendants(process) if "DistnumWorker" in " ".join(one.cmdline()))
        worker.kill()
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert json.loads(out)["params_sha256"] == undisturbed
