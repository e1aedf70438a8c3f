"""The streams of the command line: the standard output for results, the error stream for remarks."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import distnum
from distnum.cli.output import write_output
from tests.system.processes import DISTNUM, run, sha256, shell


@pytest.mark.slow
def test_training_continues_if_the_error_stream_cannot_be_written(tmp_path: Path) -> None:
    train = "distnum train --workers 0 --steps 3 --evaluate-every 1"
    closed = shell(f"{train} --out closed 2>&-", tmp_path)
    assert closed.returncode == 0
    assert closed.stdout.startswith("trained   3 steps")
    shell(f"{train} --out piped 2>&1 | head -1", tmp_path)
    full = shell(f"{train} --out full 2>/dev/full", tmp_path)
    assert full.returncode == 0
    assert sha256(tmp_path / "closed") == sha256(tmp_path / "piped") == sha256(tmp_path / "full")


@pytest.mark.slow
def test_characters_that_the_output_cannot_encode_are_escaped(tmp_path: Path) -> None:
    done = shell("PYTHONIOENCODING=ascii distnum train --workers 0 --steps 1 --out 'Übung' --quiet --json", tmp_path)
    assert done.returncode == 0, done.stderr
    done = shell("PYTHONIOENCODING=ascii distnum train --workers 0 --steps 1 --out 'Übung2'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kept in   \\xdcbung2" in done.stdout


@pytest.mark.slow
def test_warnings_of_libraries_are_not_printed(tmp_path: Path) -> None:
    done = run("train", "--workers", "0", "--steps", "1", "--init-std", "1e300", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    words = [line.split()[0] for line in done.stderr.splitlines()]
    # Compiling is announced where the disk has no machine code yet.
    assert [word for word in words if word != "compiling"] == [
        *("network", "data", "gradient", "workers", "estimate"),
        "distnum:",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


OF_A_JOB = "step 1\r\x1b[32mstep 2\x1b[0m\tÜ\n\x1b]0;title\x07\x1b[2J\x9b1A\x08\u202e\x7f\n"


def test_what_others_wrote_cannot_act_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    write_output(OF_A_JOB, end="")
    assert sys.stdout.getvalue() == "step 1\rstep 2\tÜ\n\\x1b]0;title\\x07\\x1b[2J\\x9b1A\\x08\\u202e\\x7f\n"


def test_files_and_pipes_get_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    write_output(OF_A_JOB, end="")
    assert sys.stdout.getvalue() == OF_A_JOB


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="Windows has no such terminals")
def test_texts_of_a_runs_files_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('"\\u001b]0;title\\u0007\\u009b2J" = "\\u202e"')
    terminal, end = os.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as reader:
        done = subprocess.run([*DISTNUM, "resume", "run"], cwd=tmp_path, stdout=end, stderr=end, check=False)
        os.close(end)
        shown = b""
        with suppress(OSError):  # Linux: the last process has closed it
            while piece := reader.read(4096):
                shown += piece
    assert done.returncode == 2
    assert shown.decode().removesuffix("\r\n").isprintable(), shown


PRINTING = [["--help"], ["--version"], ["train", "--help"]]
TRAIN = ["train", "--workers", "0", "--steps", "1", "--out", "run"]


@pytest.mark.parametrize("arguments", [*PRINTING, pytest.param(TRAIN, marks=pytest.mark.slow)], ids=" ".join)
def test_a_full_disk_under_the_standard_output_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    done = shell(f"distnum {' '.join(arguments)} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "distnum: the standard output cannot be written: No space left on device."
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("arguments", [*PRINTING, TRAIN], ids=" ".join)
def test_a_standard_output_closed_by_its_reader_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*DISTNUM, *arguments], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "distnum: the standard output was closed by its reader."
    assert "Exception" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_pipe_to_a_command_that_reads_nothing_fails(tmp_path: Path) -> None:
    done = shell("set -o pipefail; distnum train --workers 0 --steps 1 --quiet --json --out run | true", tmp_path)
    assert (done.returncode, done.stderr) == (1, "distnum: the standard output was closed by its reader.\n")
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_reader_that_stops_early_causes_no_traceback(tmp_path: Path) -> None:
    run("train", "--workers", "0", "--steps", "1", "--out", "run", "--quiet", cwd=tmp_path)
    done = shell("distnum evaluate run | head -1", tmp_path)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    shell("distnum train --workers 0 --steps 1 --out full >/dev/full", tmp_path)
    closed = shell("distnum train --workers 0 --steps 1 --out closed --quiet >&-", tmp_path)
    assert (closed.returncode, closed.stderr) == (0, "")
    assert sha256(tmp_path / "full") == sha256(tmp_path / "closed")


def test_one_function_writes_to_the_standard_output() -> None:
    """Others would lose the exit code and the message if the output cannot be written."""
    writers = []
    for path in sorted(Path(distnum.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                if "file" not in [keyword.arg for keyword in node.keywords]:
                    writers.append(path.name)
            elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout.write":
                writers.append(path.name)
    assert writers == ["output.py"]
