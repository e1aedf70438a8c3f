"""Run folders: created, opened by one process at a time, read, and discarded."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum import InputError, TrainingError
from distnum.storage.local_folder import LocalFolder
from distnum.storage.run_folder import RunFolder
from tests.storage.helpers import IDENTITY, make_row, make_state, names_in, no_space

# --- opening and closing ------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_new_run_can_use_a_new_or_an_empty_folder(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
    run = RunFolder.create(path, {"steps": 5, "hidden": [3, 4]})
    run.close()
    assert RunFolder.look(path).config_values() == {"steps": 5, "hidden": [3, 4]}


def test_a_new_run_makes_missing_parent_folders(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a" / "b" / "run", {}).close()
    assert (tmp_path / "a" / "b" / "run" / "config.toml").is_file()


def test_a_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".precious").write_text("mine")
    with pytest.raises(InputError) as caught:
        RunFolder.create(tmp_path / "run", {})
    assert repr(str(tmp_path / "run")) in str(caught.value)
    assert "another folder" in str(caught.value)
    assert names_in(tmp_path / "run") == [".precious"]


def test_a_new_run_in_the_folder_of_a_run_is_refused_and_names_the_command_to_continue(run: RunFolder) -> None:
    before = run.config_file.read_bytes()
    with pytest.raises(InputError, match=f"distnum resume {run.path}"):
        RunFolder.create(run.path, {"steps": 9})
    assert run.config_file.read_bytes() == before


def test_a_run_cannot_be_made_at_or_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="out is "):
            RunFolder.create(path, {})
    assert (tmp_path / "file").read_text() == "mine"
    assert names_in(tmp_path) == ["file"]


def test_a_run_that_cannot_be_made_leaves_the_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(InputError, match=os.strerror(errno.ENOSPC)):
            RunFolder.create(tmp_path / "run", {})
    RunFolder.create(tmp_path / "run", {}).close()


def test_a_configuration_that_toml_cannot_hold_is_refused(tmp_path: Path) -> None:
    name_of_a_folder = os.fsdecode(b"caf\xe9")
    with pytest.raises(InputError):
        RunFolder.create(tmp_path / "run", {"data": name_of_a_folder})
    assert not (tmp_path / "run").exists()


def test_discarding_removes_only_what_the_run_made(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    RunFolder.create(tmp_path / "a" / "run", {}).discard()
    assert names_in(tmp_path) == ["other"]

    RunFolder.create(tmp_path / "other", {}).discard()
    assert names_in(tmp_path) == ["other"]
    assert names_in(tmp_path / "other") == []

    run = RunFolder.create(tmp_path / "a" / "run", {})
    (tmp_path / "a" / "note").write_text("mine")
    run.discard()
    assert names_in(tmp_path / "a") == ["note"]


def test_a_run_with_a_checkpoint_is_not_discarded(run: RunFolder) -> None:
    run.save_checkpoint(make_state(1), IDENTITY, keep=1)
    run.discard()
    assert run.config_file.exists()
    assert run.checkpoints.latest() is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "is not found"),
        (lambda path: path.mkdir(), "has no config.toml"),
        (lambda path: path.write_text(""), "is not a folder"),
    ],
)
@pytest.mark.parametrize("enter", [RunFolder.open, RunFolder.look])
def test_a_location_without_a_run_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], Any], words: str, enter: Callable[[Path], RunFolder]
) -> None:
    make(tmp_path / "run")
    with pytest.raises(InputError) as caught:
        enter(tmp_path / "run")
    assert repr(str(tmp_path / "run")) in str(caught.value)
    assert words in str(caught.value)


def test_a_run_can_be_opened_once_at_a_time(run: RunFolder) -> None:
    pytest.importorskip("fcntl")
    with pytest.raises(InputError, match="in use") as caught:
        RunFolder.open(run.path)
    assert repr(str(run.path)) in str(caught.value)
    RunFolder.look(run.path).rows.read()
    run.close()

    second = RunFolder.open(run.path)
    with pytest.raises(InputError, match="in use"):
        RunFolder.open(run.path)
    second.close()
    RunFolder.open(run.path).close()


def test_opening_a_run_removes_temporary_files_of_a_killed_process(run: RunFolder) -> None:
    run.close()
    left = [run.path / ".config.toml.123.part", run.checkpoints.folder / ".step-00000001.safetensors.123.part"]
    for path in left:
        path.write_bytes(b"half")
    RunFolder.open(run.path).close()
    assert not any(path.exists() for path in left)


def test_a_run_that_another_process_has_just_made_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl", reason="runs are locked on POSIX systems only")
    first = RunFolder.create(tmp_path / "run", {"seed": 1})
    monkeypatch.setattr(LocalFolder, "names", lambda self: [])  # as if listed before the first run was made
    with pytest.raises(InputError, match="is in use"):
        RunFolder.create(tmp_path / "run", {"seed": 2})
    assert first.config_values() == {"seed": 1}
    assert first.checkpoints.folder.is_dir()
    first.close()


# --- content ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [lambda run: run.write_model({"W1": np.zeros((2, 2))}, {}), lambda run: run.write_result({"loss": 1.0})],
    ids=["model", "result"],
)
def test_a_model_or_result_that_cannot_be_written_names_the_command_to_continue(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, write: Callable[[RunFolder], None]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(TrainingError) as caught:
            write(run)
    assert f"distnum resume {run.path}" in str(caught.value)
    assert not run.model_file.exists()
    assert not run.result_file.exists()


def test_numbers_that_are_not_finite_are_null_in_every_file(run: RunFolder) -> None:
    run.rows.append(make_row(1) | {"test_loss": float("inf")})
    run.write_result({"loss": float("nan"), "nested": [{"x": -float("inf")}]})
    run.close()
    assert json.loads(run.rows.file.read_text())["test_loss"] is None
    assert json.loads(run.result_file.read_text()) == {"loss": None, "nested": [{"x": None}]}


def test_saving_a_checkpoint_writes_the_rows_before_it(run: RunFolder) -> None:
    run.rows.append(make_row(1))
    run.save_checkpoint(make_state(1), IDENTITY, keep=1)
    assert RunFolder.look(run.path).rows.read() == [make_row(1)]


def test_a_result_counts_only_with_all_steps_and_the_model(run: RunFolder) -> None:
    assert run.result(5) is None
    run.write_result({"steps": 5})
    assert run.result(5) is None
    run.write_model({"params": np.zeros(2)}, {})
    assert run.result(5) == {"steps": 5}
    assert run.result(6) is None
