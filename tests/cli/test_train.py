"""The commands ``distnum train`` and ``distnum resume``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import TrainingError
from distnum.cli.main import main
from tests.system.processes import sha256

TRAIN = ["train", "--workers", "0", "--hidden", "4"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_prints_an_estimate_and_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--workers", "0", "--steps", "3", "--out", "run"]) == 0
    printed = capsys.readouterr()
    for words in ("784-50-10", "39,760 parameters", "79,520 loss evaluations a step", "estimate  3 steps", "step 3/3"):
        assert words in printed.err
    for words in ("trained   3 steps", "test accuracy", sha256(Path("run")), "kept in   run"):
        assert words in printed.out


def test_without_out_the_run_is_kept_under_runs(folder: Path) -> None:
    for _ in range(2):
        assert main([*TRAIN, "--steps", "1", "--quiet"]) == 0
    assert len(list((folder / "runs").iterdir())) == 2


def test_json_prints_one_object_and_quiet_prints_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--steps", "2", "--json", "--quiet", "--out", "run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out)["params_sha256"] == sha256(Path("run"))
    assert main(["evaluate", "run", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["accuracy"] == json.loads(Path("run", "result.json").read_text())["test_accuracy"]


def test_options_override_a_config_file() -> None:
    options = ["--workers", "0", "--steps", "2", "--hidden", "5,4", "--activation", "leaky_relu:0.2", "--quiet"]
    assert main(["train", *options, "--out", "first"]) == 0
    again = ["train", "--config", "first/config.toml", "--quiet"]
    assert main([*again, "--out", "second"]) == 0
    assert main([*again, "--seed", "1", "--out", "third"]) == 0
    first, second, third = (sha256(Path(name)) for name in ("first", "second", "third"))
    assert first == second != third


def test_the_estimate_includes_evaluations_and_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    estimates = []
    for every in ("1", "1000"):
        often = ["--steps", "3", "--evaluate-every", every, "--checkpoint-every", every]
        assert main([*TRAIN, *often, "--out", every]) == 0
        step = re.search(r"steps of about ([\d.]+) (ms|s)", capsys.readouterr().err)
        assert step is not None
        estimates.append(float(step[1]) * (1000 if step[2] == "s" else 1))
    assert estimates[0] > 2 * estimates[1]


def test_resuming_a_complete_run_reports_that_it_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--steps", "1", "--out", "run", "--json"]) == 0
    first = capsys.readouterr().out
    assert main(["resume", "run"]) == 0
    assert "is complete; there is nothing to resume" in capsys.readouterr().err
    assert main(["resume", "run", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == json.loads(first)


def test_a_damaged_model_of_a_complete_run_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--steps", "2", "--out", "run"]) == 0
    model = Path("run", "model.safetensors")
    params = distnum.load("run").params
    model.write_bytes(model.read_bytes()[:3000])
    assert main(["resume", "run", "--workers", "0"]) == 0
    assert "It is written again." in capsys.readouterr().err
    np.testing.assert_array_equal(distnum.load("run").params, params)


def test_a_refused_run_leaves_no_folder(folder: Path) -> None:
    assert main([*TRAIN, "--data", "missing"]) == 2
    assert list(folder.iterdir()) == []


def test_a_disk_full_at_the_first_checkpoint_keeps_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *arguments: Any) -> None:
        raise TrainingError("no room")

    options: dict[str, Any] = {"hidden": 4, "steps": 6, "workers": 0, "checkpoint_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr("distnum.storage.run_folder.RunFolder.save_checkpoint", full)
        with pytest.raises(TrainingError, match="no room"):
            distnum.train(**options, out="run")
    assert distnum.train(out="run", resume=True).params_sha256 == distnum.train(**options).params_sha256
