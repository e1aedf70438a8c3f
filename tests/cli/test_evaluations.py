"""The command ``distnum evaluations``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.cli.main import main
from distnum.storage.evaluation_rows import FunctionRecord
from distnum.storage.evaluations import EvaluationStore
from tests.storage.test_evaluations import FUNCTION, rows


@pytest.fixture
def store(tmp_path: Path) -> str:
    with EvaluationStore(tmp_path / "store") as store:
        store.add_function(FUNCTION)
        store.add(rows(1, 2, 3, failed=(2,)))
        other = FunctionRecord("cd" * 16, "model:g\x1b[2J", "", "00" * 16, np.zeros(1), 1.0)
        store.add_function(other)
        nan = np.array([np.nan])
        store.add(rows(4, function=other.key, names=[""], offsets=np.zeros(1), moved_to=nan, values=np.array([[0.1]])))
    return str(tmp_path / "store")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["evaluations", *arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_a_function_with_many_arguments_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EvaluationStore(tmp_path / "store") as store:
        for number in range(30):
            function = FunctionRecord(f"{number:032x}", "model:loss", "", "00" * 16, np.zeros(1), 1.0)
            store.add_function(function)
            store.add(rows(100 + number, function=function.key))
    lines = run(capsys, str(tmp_path / "store")).split("\n\n")[0].splitlines()
    assert len(lines) == 2
    assert "model:loss (30 arguments)" in lines[1]
    assert lines[1].split()[3] == "30"


def test_evaluations_are_printed_in_80_columns(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, store)
    assert "4 evaluations of 2 functions" in printed
    assert "model:f" in printed
    assert "1 exception" in printed
    assert "\x1b" not in printed
    table = printed.split("\n\n")[1].splitlines()
    assert table[1].split() == ["x[1]", "+1e-06", "1", "+1", "250", "ms", "ok"]
    assert table[2].split() == ["x[2]", "+1e-06", "250", "ms", "exception"]
    assert table[4].split() == ["(x", "itself)", "0.1", "250", "ms", "ok"]
    assert max(map(len, table)) <= 80
    assert run(capsys, store, "--rows", "1").splitlines()[-1].startswith("... the last 1 of 4")
    assert "x[1]" not in run(capsys, store, "--rows", "1")
    assert "coordinate" not in run(capsys, store, "--rows", "0")


def test_evaluations_are_written_as_csv_with_all_digits(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.csv"
    assert run(capsys, store, "--csv", str(file), "--only", "function=model:f") == f"3 evaluations written to {file}\n"
    with file.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["coordinate"] for row in table] == ["x[1]", "x[2]", "x[3]"]
    assert [row["status"] for row in table] == ["ok", "exception", "ok"]
    assert table[1]["reason"] == "no 2"
    assert float(table[0]["value[1]"]) == -1 / 3
    assert table[1]["value[0]"] is None
    assert run(capsys, store, "--csv", str(tmp_path / "no" / "x"), code=1).startswith("distnum: csv is")


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    functions = json.loads(run(capsys, *arguments, "--json"))["functions"]
    return {one["function"]: one["evaluations"] for one in functions}


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["status=failed"], 2),
        (["status=exception", "coordinate=x[2]"], 2),
        (["status=ok"], 1),
        (["coordinate=x[3]"], 2),
        (["coordinate=x[3]", "status=timeout"], 3),
        (["function=model:f"], 0),
        (["function=" + "ab" * 16], 0),
        (["coordinate="], 3),
    ],
)
def test_rows_are_dropped(store: str, conditions: list[str], left: int, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, store, "--drop", *conditions)
    assert summary(capsys, store).get("model:f", 0) == left


def test_stores_are_merged(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = str(tmp_path / "new")
    assert run(capsys, new, "--merge", store) == f"4 evaluations added from {store}\n"
    assert run(capsys, new, "--merge", store, store).startswith("0 evaluations added")
    assert summary(capsys, new) == summary(capsys, store)


def test_bad_input_gives_one_line(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for arguments, message in (
        ([str(tmp_path / "missing")], "which is not found"),
        ([str(tmp_path)], "but no evaluations; choose another folder"),
        ([str(tmp_path / "file")], "which cannot be used: File exists"),
        ([""], "dir is ''"),
        ([store, "--rows", "many"], "rows is 'many'; it must be a whole number of at least 0"),
        ([store, "--drop", "x[3]"], "drop is 'x[3]'; it must be function=NAME, coordinate=NAME"),
        ([store, "--only", "status=bad"], "only is 'status=bad'; it must be"),
        ([store, "--merge", str(tmp_path / "missing")], "which is not found"),
    ):
        printed = run(capsys, *arguments, code=2)
        assert message in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "missing").exists()
    with EvaluationStore(store) as held:
        held.add(rows(9))
        assert "is in use: another process is writing to it" in run(capsys, store, "--drop", "status=ok", code=2)
