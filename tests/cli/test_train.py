"""The commands ``distnum train`` and ``distnum resume``, as processes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import TrainingError
from tests.cli.processes import (
    DISTNUM,
    LONG,
    checkpoints,
    run,
    sha256,
    started,
    wait_for,
)

pytestmark = pytest.mark.process


def test_train_prints_an_estimate_and_the_result(tmp_path: Path) -> None:
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


def test_json_prints_one_object_and_quiet_prints_nothing_else(tmp_path: Path) -> None:
    done = run("train", "--workers", "0", "--steps", "2", "--json", "--quiet", "--out", "run", cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout)["params_sha256"] == sha256(tmp_path / "run")
    evaluated = json.loads(run("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert evaluated["accuracy"] == json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]


def test_options_override_a_config_file(tmp_path: Path) -> None:
    options = ["--workers", "0", "--steps", "2", "--hidden", "5,4", "--activation", "tanh", "--quiet"]
    assert run("train", *options, "--out", "first", cwd=tmp_path).returncode == 0
    again = ["train", "--config", "first/config.toml", "--quiet"]
    assert run(*again, "--out", "second", cwd=tmp_path).returncode == 0
    assert run(*again, "--seed", "1", "--out", "third", cwd=tmp_path).returncode == 0
    first, second, third = (sha256(tmp_path / name) for name in ("first", "second", "third"))
    assert first == second != third


@pytest.mark.ray
def test_workers_that_share_the_forward_pass_give_the_same_bits(tmp_path: Path) -> None:
    options = ["--steps", "4", "--hidden", "12,9", "--batch-size", "500", "--quiet"]
    for workers in ("0", "3"):
        assert run("train", *options, "--workers", workers, "--out", workers, cwd=tmp_path).returncode == 0
    assert sha256(tmp_path / "3") == sha256(tmp_path / "0")


def test_the_estimate_includes_evaluations_and_checkpoints(tmp_path: Path) -> None:
    estimates = []
    for every in ("1", "1000"):
        words = ["--hidden", "4", "--steps", "3", "--evaluate-every", every, "--checkpoint-every", every]
        stderr = run("train", "--workers", "0", *words, "--out", every, cwd=tmp_path).stderr
        step = re.search(r"steps of about ([\d.]+) (ms|s)", stderr)
        assert step is not None
        estimates.append(float(step[1]) * (1000 if step[2] == "s" else 1))
    assert estimates[0] > 2 * estimates[1]


def test_a_run_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("train", *LONG, "--steps", "100000", "--workers", "0", "--out", "run", cwd=tmp_path):
        wait_for(lambda: checkpoints(out), 60, "a checkpoint")
        second = run("resume", "run", cwd=tmp_path)
    assert second.returncode == 2
    assert "is in use: another distnum process" in second.stderr


def test_resuming_a_complete_run_reports_that_it_is_complete(tmp_path: Path) -> None:
    run("train", "--workers", "0", "--steps", "1", "--out", "run", "--quiet", cwd=tmp_path)
    done = run("resume", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert "is complete; there is nothing to resume" in done.stderr


def test_resuming_a_complete_run_prints_its_result_with_json(tmp_path: Path) -> None:
    first = run("train", "--workers", "0", "--steps", "1", "--out", "run", "--json", cwd=tmp_path)
    again = run("resume", "run", "--json", "--quiet", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_a_damaged_model_of_a_complete_run_is_written_again(tmp_path: Path) -> None:
    assert run("train", "--workers", "0", "--steps", "2", "--hidden", "4", "--out", "run", cwd=tmp_path).returncode == 0
    model = tmp_path / "run" / "model.safetensors"
    whole = distnum.load(tmp_path / "run")
    model.write_bytes(model.read_bytes()[:3000])
    done = run("resume", "run", "--workers", "0", cwd=tmp_path)
    assert done.returncode == 0
    assert "It is written again." in done.stderr
    np.testing.assert_array_equal(distnum.load(tmp_path / "run").params, whole.params)


def test_runs_started_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    arguments = [*DISTNUM, "train", "--workers", "0", "--steps", "1", "--quiet"]
    processes = [subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    stderr = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, stderr
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 4


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    assert run("train", "--workers", "0", "--data", "missing", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


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
