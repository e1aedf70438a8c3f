"""Rows of steps: read back unchanged, continued after a crash, kept on a full disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distnum import InputError, TrainingError
from distnum.storage.run_folder import RunFolder
from tests.storage.helpers import IDENTITY, files_limited_to, make_row, make_state, no_space


def with_rows(run: RunFolder, n_rows: int) -> RunFolder:
    for step in range(1, n_rows + 1):
        run.rows.append(make_row(step))
    run.close()
    return RunFolder.open(run.path)


def test_rows_are_read_back_unchanged(run: RunFolder) -> None:
    run = with_rows(run, 4)
    assert run.rows.read() == [make_row(step) for step in (1, 2, 3, 4)]
    run.close()


def test_a_run_without_a_file_of_rows_has_no_rows(run: RunFolder) -> None:
    run.rows.file.unlink()
    assert run.rows.read() == []


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', "\0\0\0\0", '{"loss": 1}\n', "[6]\n", "\udcff\udcfe"])
def test_continuing_removes_later_and_incomplete_rows(run: RunFolder, torn: str) -> None:
    run = with_rows(run, 5)
    with run.rows.file.open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    assert run.rows.continue_from(3) == [make_row(1), make_row(2), make_row(3)]
    run.rows.append(make_row(4) | {"again": True})
    run.close()
    rows = [json.loads(line) for line in run.rows.file.read_text().splitlines()]
    assert rows == [make_row(1), make_row(2), make_row(3), make_row(4) | {"again": True}]


@pytest.mark.parametrize("damage", [b"\0\xff", b"[2]", b'{"step": 2}', b'{"step": 2, "loss": 1, "compute_s": "x"}'])
def test_a_damaged_line_is_named_and_other_rows_are_kept(
    run: RunFolder, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run = with_rows(run, 5)
    lines = run.rows.file.read_bytes().splitlines()
    run.rows.file.write_bytes(b"\n".join([lines[0], damage, *lines[2:], b""]))
    with pytest.raises(InputError, match=r"metrics\.jsonl has a line 2 that is not a row of a step"):
        run.rows.read()
    assert run.rows.continue_from(4) == [make_row(1), make_row(3), make_row(4)]
    run.close()
    assert run.rows.file.read_bytes().splitlines() == [lines[0], damage, lines[2], lines[3]]
    messages = [record.getMessage() for record in caplog.records]
    assert "a line 2 that is not a row" in messages[0]
    assert "has rows of 3 of the 4 steps done" in messages[1]


def test_missing_rows_are_reported(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run = with_rows(run, 3)
    run.rows.file.unlink()
    assert run.rows.continue_from(3) == []
    run.close()
    assert "has rows of 0 of the 3 steps done" in caplog.text


def test_continuing_before_the_first_step_removes_all_rows(run: RunFolder) -> None:
    run = with_rows(run, 2)
    assert run.rows.continue_from(0) == []
    run.close()
    assert run.rows.file.read_bytes() == b""


def test_rows_that_cannot_be_rewritten_are_kept_with_an_error(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_rows(run, 5)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", no_space)
            with pytest.raises((InputError, TrainingError), match="No space left"):
                run.rows.continue_from(3)
        assert len(run.rows.read()) == 5
    finally:
        run.close()


def test_a_run_can_be_closed_on_a_full_disk(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for step in range(1, 50):
        run.rows.append(make_row(step))
    try:
        with files_limited_to(100):
            with pytest.raises(TrainingError, match=r"cannot be written"):
                run.save_checkpoint(make_state(49), IDENTITY, keep=1)
            run.close()
    finally:
        run.close()
