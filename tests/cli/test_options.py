"""The options of the command line, and its help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distnum.cli.commands import COMMANDS
from distnum.cli.main import main

HEAVY = {"ray", "numba", "matplotlib", "rich", "scipy", "PIL"}


@pytest.mark.parametrize("arguments", [[], ["train"], ["scale"], ["submit"]])
def test_help_is_quick_because_it_loads_little(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom distnum.cli.main import main\n"
        f"try: main({[*arguments, '--help']})\nexcept SystemExit: pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    options = {
        "train": ("--workers", "--learning-rate", "--h ", "--config", "--out", "--threads-per-worker"),
        "scale": ("--workers", "--learning-rate", "--forecast"),
        "submit": ("--address", "--fetch"),
    }
    for option in options.get("".join(arguments), ("train", "--version")):
        assert option in done.stdout


@pytest.mark.parametrize("command", [None, *(command.name for command in COMMANDS)])
def test_every_command_explains_itself(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*([command] if command else []), "--help"])
    assert ended.value.code == 0
    assert "usage: distnum" in capsys.readouterr().out


def test_help_shows_defaults_for_a_new_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in (("train", True), ("resume", False)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert ("(default: stop)" in capsys.readouterr().out) is expected
