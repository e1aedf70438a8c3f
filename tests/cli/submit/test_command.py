"""The command that ``distnum submit`` sends, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from distnum import InputError, TrainingError
from distnum.cli.commands import COMMANDS
from distnum.cli.main import main
from distnum.cli.options import parsed
from distnum.cli.submit.client import Cluster, Submission
from distnum.cli.submit.command import submitted_command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "address is missing; give --address http://HEAD:8265"),
        (["--address", "head:8265"], "address is 'head:8265'; it must be http://HEAD:8265"),
        (["--address", "http://a:b@head:1"], "address holds a user name or password"),
        (["--address", "http://127.0.0.1:9"], "where nothing listens (Connection refused)"),
        (["--address", "http://127.0.0.1:9", "--steps", "0"], "steps is '0'; it must be a whole number"),
        (["--address", "http://127.0.0.1:9", "--stepz", "3"], "unrecognized arguments: --stepz 3"),
        (["--list", "--stop", "x"], "--list and --stop are given"),
        (
            ["evaluate", "run"],
            "command is 'evaluate'; on a cluster it must be train, resume, scale, differentiate or check.",
        ),
        (["--list", "--steps", "3"], "'--steps' is given with --list"),
        (["--address", "user:pw@head:8265"], "address holds a user name or password"),
        (["--address", "http://a%3Apw%40head:1"], "address holds a user name or password"),
        (["--address", "http://head:8265/?token=pw"], "address holds a user name or password, a query or a fragment"),
        (["--address", "http://head:8265#pw"], "address holds a user name or password, a query or a fragment"),
        (["--address", "http:\\\\a:pw@head:8265"], "address holds a user name or password"),
        (["--data", "https://host/x.npz?k=pw"], "data is an http address with more than a host"),
        (["--stop", ""], "stop is ''; it must be the ID of a job"),
        (["--out", ""], "out is ''; it must name a folder"),
        (["--workers", "0"], "workers is 0, which uses no Ray"),
        (["--out", "sftp://user:pw@head/run"], "out is a URI that holds a password"),
        (["resume", "sftp://user:pw@head/run"], "dir is a URI that holds a password"),
        (["resume", "--steps", "7", "--", "-x"], "dir is '-x', which begins like an option; write it as './-x'"),
        (["scale", "--resume"], "resume needs --out DIR"),
        (["--address", "http://127.0.0.1:9", "--token-file", "/nowhere"], "where nothing listens"),
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert main(["submit", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert "pw" not in printed


HOSTILE = "\x1b]0;title\x07\x1b[31mred\x1b[0m\x9b2J\u202e\n\rforged"


def test_the_list_of_jobs_has_a_printable_line_for_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Submission(HOSTILE, HOSTILE, HOSTILE, "", None), Submission("7", "RUNNING", "train", "", None)]
    monkeypatch.setattr(Cluster, "__init__", lambda self, *arguments: None)
    monkeypatch.setattr(Cluster, "jobs", lambda self: jobs)
    monkeypatch.setattr(Cluster, "stop", lambda self, number: jobs[0])
    assert main(["submit", "--address", "http://head:8265", "--list"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[1].split() == ["7", "RUNNING", "-", "train"]
    assert main(["submit", "--address", "http://head:8265", "--stop", "7"]) == 0
    assert capsys.readouterr().out.removesuffix("\n").isprintable()


def test_a_failure_that_the_cluster_reports_is_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Cluster) -> None:
        raise TrainingError(f"The cluster reports: {HOSTILE}")

    monkeypatch.setattr(Cluster, "__init__", lambda self, *arguments: None)
    monkeypatch.setattr(Cluster, "jobs", fail)
    assert main(["submit", "--address", "http://head:8265", "--list"]) == 1
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


def test_values_of_a_config_file_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in (
        ('data = "sftp://user:pw@head/data"', "data is a URI that holds a password"),
        ("workers = 0", "workers is 0, which uses no Ray"),
    ):
        (tmp_path / "c.toml").write_text(line)
        assert main(["submit", "--address", "http://127.0.0.1:9", "--config", str(tmp_path / "c.toml")]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "pw" not in printed


@pytest.mark.parametrize("rest", [["7", "--steps", "7"], ["--steps", "7", "7"], ["--steps=7", "7"]])
def test_the_run_to_resume_comes_first_in_the_submitted_command(rest: list[str]) -> None:
    command = submitted_command(parsed(["submit", "resume", *rest], COMMANDS))
    assert command[:2] == ["resume", "7"]
    assert parsed(command, COMMANDS) == parsed(["resume", "7", "--steps", "7"], COMMANDS)


def test_values_of_a_config_file_become_options(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('hidden = [30, 20]\nlearning_rate = 0.5\noptimizer = "adam"\n')
    options = parsed(["submit", "--config", str(tmp_path / "c.toml"), "--steps", "7"], COMMANDS)
    command = submitted_command(options)
    refused = parsed(["submit", "--config", str(tmp_path / "c.toml"), "--steps", "0"], COMMANDS)
    with pytest.raises(InputError, match="steps is '0'"):
        submitted_command(refused)
    assert command == ["train", "--hidden", "30,20", "--learning-rate", "0.5", "--optimizer", "adam", "--steps", "7"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["scale", "--workers", "1,2", "--resume", "--out", "x", "--json"],
        ["train", "--out=-x", "--quiet"],
        ["train", "--hidden", "none", "--steps", "3"],
        ["resume", "7"],
    ],
)
def test_a_submitted_command_has_the_same_options(arguments: list[str]) -> None:
    command = submitted_command(parsed(["submit", *arguments], COMMANDS))
    assert parsed(command, COMMANDS) == parsed(arguments, COMMANDS)


def test_an_option_overrides_the_value_of_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('steps = 5\naddress = "head:1"\n')
    options = parsed(["submit", "--config", str(tmp_path / "c.toml"), "--steps", "7"], COMMANDS)
    assert submitted_command(options) == ["train", "--steps", "7"]
