"""The command ``distnum scale``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distnum.cli.main import main


@pytest.mark.usefixtures("ray_session")
def test_an_experiment_is_measured_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scaling"
    few = ["--workers", "1,2", "--steps", "2", "--warmup", "0", "--repeats", "1", "--hidden", "4", "--out", str(out)]
    assert main(["scale", *few, "--forecast", "8"]) == 0
    printed = capsys.readouterr()
    assert "repeat 1: 2 workers" in printed.err
    assert "forecast" in printed.out
    assert {path.name for path in out.iterdir()} == {"scaling.csv", "scaling.json", "scaling.png", "scaling.svg"}
    assert main(["scale", *few, "--resume", "--json"]) == 0  # nothing is missing
    result = json.loads(capsys.readouterr().out)
    assert result["folder"] == str(out)
    assert [one["workers"] for one in result["summaries"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "1,x"], "workers is '1,x'; it must be whole numbers separated by commas"),
        (["--workers", ""], "workers is empty"),
        (["--threads", "0"], "threads holds 0"),
        (["--steps", "none"], "steps is 'none'; it must be a whole number of at least 1"),
        (["--mode", "both"], "mode is 'both'; it must be one of strong, weak"),
        (["--resume"], "resume needs --out DIR"),
        (["--out", "s3://bucket/x"], "it must be a local folder, not a URI"),
        (["--forecast", "-3"], "forecast is -3"),
        (["--workers-per-node", "0"], "workers_per_node is '0'; it must be a whole number of at least 1"),
        (["--gbit-per-s", "0"], "gbit_per_s is '0'; it must be a finite number above 0"),
        (["--learning-rate", "0"], "learning_rate is '0'"),
    ],
)
def test_impossible_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scale", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())
