"""A run's folder: what was written comes back to the bit, or is refused; a crash or a full disk loses nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distnum import InputError, TrainingError
from distnum.storage.checkpoints import State, checkpoint_bytes, params_sha256, read_checkpoint
from distnum.storage.files import CheckpointError, write_whole
from distnum.storage.run_folder import RunFolder

DECIDING = {"seed": 3, "data": "mnist-10k", "hidden": [4], "h": 1e-4}


def a_state(step: int = 7, dtype: str = "float64") -> State:
    params = np.random.default_rng(step).standard_normal(5).astype(dtype)
    return State(step, params, {"mean": params / 3, "square": params * params})


def assert_same_bits(found: State, expected: State) -> None:
    assert found.step == expected.step
    assert found.optimizer_state.keys() == expected.optimizer_state.keys()
    pairs = [(found.params, expected.params)]
    pairs += [(found.optimizer_state[slot], array) for slot, array in expected.optimizer_state.items()]
    for array, original in pairs:
        assert (array.dtype, array.shape, array.tobytes()) == (original.dtype, original.shape, original.tobytes())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder.create(tmp_path / "run", {"steps": 5})
    yield folder
    folder.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond a size, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- checkpoints as bytes -----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_comes_back_bit_for_bit(dtype: str) -> None:
    params = np.array([0.1, -0.0, 1 / 3, 1e-45, np.inf, np.nan, np.finfo(dtype).tiny / 4], dtype)
    state = State(123_456_789, params, {"mean": -params, "square": params[::-1].copy()})
    found, identity = read_checkpoint(checkpoint_bytes(state, DECIDING))
    assert_same_bits(found, state)
    assert identity == DECIDING


def test_a_checkpoint_without_optimizer_state_has_none() -> None:
    state = State(0, np.arange(3.0), {})
    found, identity = read_checkpoint(checkpoint_bytes(state, {}))
    assert_same_bits(found, state)
    assert identity == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_flipped_bit_is_found(dtype: str) -> None:
    content = checkpoint_bytes(a_state(dtype=dtype), DECIDING)
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointError):
                read_checkpoint(bytes(damaged))


def test_a_changed_byte_never_changes_what_is_read() -> None:
    """White space in the header may be other white space; all else is refused."""
    state = a_state()
    content = checkpoint_bytes(state, DECIDING)
    refused = 0
    for position in range(len(content)):
        for value in (0, 9, 10, 32, 48, 57, 255):
            damaged = bytearray(content)
            damaged[position] = value
            try:
                found, identity = read_checkpoint(bytes(damaged))
            except CheckpointError:
                refused += 1
                continue
            assert_same_bits(found, state)
            assert identity == DECIDING
    assert refused > 5 * len(content)


def test_every_length_but_the_whole_is_refused() -> None:
    content = checkpoint_bytes(a_state(), DECIDING)
    for length in range(len(content)):
        with pytest.raises(CheckpointError):
            read_checkpoint(content[:length])
    for extra in (b"\0", b"\0" * 8, content):
        with pytest.raises(CheckpointError):
            read_checkpoint(content + extra)


def test_a_file_of_tensors_that_is_no_checkpoint_is_refused() -> None:
    from safetensors.numpy import save

    for content in (save({"params": np.zeros(3)}), save({"params": np.zeros(3)}, metadata={"format": "other"})):
        with pytest.raises(CheckpointError):
            read_checkpoint(content)


def test_a_header_that_promises_terabytes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cut short"):
        read_checkpoint((2**42).to_bytes(8, "little") + b"{}")


# --- checkpoints in the folder ------------------------------------------------------


def test_a_run_without_checkpoints_has_no_latest(run: RunFolder) -> None:
    assert run.latest_checkpoint() is None


def test_the_latest_checkpoint_is_the_one_of_the_last_step(run: RunFolder) -> None:
    for step in (9, 10, 2):
        run.save_checkpoint(a_state(step), DECIDING, keep=5)
    found = run.latest_checkpoint()
    assert found is not None
    assert_same_bits(found[0], a_state(10))
    assert found[1:] == (DECIDING, [])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_checkpoints_are_kept(run: RunFolder, keep: int) -> None:
    for step in range(1, 6):
        saved = run.save_checkpoint(a_state(step), DECIDING, keep)
        assert saved == run.checkpoint_file(step)
        assert saved.exists()
    kept = [run.checkpoint_file(step).name for step in range(6 - keep, 6)]
    assert names_in(run.checkpoint_folder) == kept


def test_the_order_of_checkpoints_is_that_of_their_steps_however_many_digits(run: RunFolder) -> None:
    for step in (99_999_999, 100_000_000):
        run.save_checkpoint(a_state(step), DECIDING, keep=1)
    found = run.latest_checkpoint()
    assert found is not None
    assert found[0].step == 100_000_000


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_tear, _empty, _flip])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(run: RunFolder, damage: Callable[[Path], None]) -> None:
    for step in (10, 20, 30):
        run.save_checkpoint(a_state(step), DECIDING, keep=3)
    damage(run.checkpoint_file(30))
    found = run.latest_checkpoint()
    assert found is not None
    state, identity, notes = found
    assert_same_bits(state, a_state(20))
    assert identity == DECIDING
    assert len(notes) == 1
    assert run.checkpoint_file(30).name in notes[0]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_with_their_names(run: RunFolder) -> None:
    for step in (10, 20):
        run.save_checkpoint(a_state(step), DECIDING, keep=3)
        _tear(run.checkpoint_file(step))
    with pytest.raises(InputError) as caught:
        run.latest_checkpoint()
    assert str(run.path) in str(caught.value)
    for step in (10, 20):
        assert run.checkpoint_file(step).name in str(caught.value)


def test_what_a_crash_left_half_written_is_not_a_checkpoint(run: RunFolder) -> None:
    saved = run.save_checkpoint(a_state(1), DECIDING, keep=3)
    (run.checkpoint_folder / ".step-00000002.safetensors.123.part").write_bytes(saved.read_bytes()[:50])
    found = run.latest_checkpoint()
    assert found is not None
    assert (found[0].step, found[2]) == (1, [])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.save_checkpoint(a_state(1), DECIDING, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(TrainingError) as caught:
            run.save_checkpoint(a_state(2), DECIDING, keep=1)
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert f"distnum resume {run.path}" in str(caught.value)
    assert names_in(run.checkpoint_folder) == [run.checkpoint_file(1).name]
    found = run.latest_checkpoint()
    assert found is not None
    assert_same_bits(found[0], a_state(1))


# --- writing whole files ------------------------------------------------------------


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    for content in (b"first", b"", b"second" * 1000):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
        assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: bytes | None
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_whole(path, b"new")
    assert names_in(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


def test_a_write_that_stops_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with files_limited_to(1000), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "file", b"x" * 100_000)
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupt_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    "write",
    [lambda run: run.write_model({"W1": np.zeros((2, 2))}, {}), lambda run: run.write_result({"loss": 1.0})],
    ids=["model", "result"],
)
def test_an_end_that_cannot_be_written_says_how_to_go_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, write: Callable[[RunFolder], None]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(TrainingError) as caught:
            write(run)
    assert f"distnum resume {run.path}" in str(caught.value)
    assert not run.model_file.exists()
    assert not run.result_file.exists()


# --- folders ------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_new_run_goes_where_nothing_is_or_into_an_empty_folder(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
    run = RunFolder.create(path, {"steps": 5, "hidden": [3, 4]})
    run.close()
    assert RunFolder.look(path).config_values() == {"steps": 5, "hidden": [3, 4]}


def test_a_new_run_makes_the_folders_above_it(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a" / "b" / "run", {}).close()
    assert (tmp_path / "a" / "b" / "run" / "config.toml").is_file()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".precious").write_text("mine")
    with pytest.raises(InputError) as caught:
        RunFolder.create(tmp_path / "run", {})
    assert repr(str(tmp_path / "run")) in str(caught.value)
    assert "another folder" in str(caught.value)
    assert names_in(tmp_path / "run") == [".precious"]


def test_a_new_run_in_place_of_a_run_is_refused_with_how_to_continue_it(run: RunFolder) -> None:
    before = run.config_file.read_bytes()
    with pytest.raises(InputError, match=f"distnum resume {run.path}"):
        RunFolder.create(run.path, {"steps": 9})
    assert run.config_file.read_bytes() == before


def test_a_run_cannot_be_made_in_place_of_a_file_or_below_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="out is "):
            RunFolder.create(path, {})
    assert (tmp_path / "file").read_text() == "mine"
    assert names_in(tmp_path) == ["file"]


def test_a_run_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_discarding_removes_what_was_made_and_nothing_else(tmp_path: Path) -> None:
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
    run.save_checkpoint(a_state(1), DECIDING, keep=1)
    run.discard()
    assert run.config_file.exists()
    assert run.latest_checkpoint() is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "is not found"),
        (lambda path: path.mkdir(), "has no config.toml"),
        (lambda path: path.write_text(""), "is not a folder"),
    ],
)
@pytest.mark.parametrize("enter", [RunFolder.open, RunFolder.look])
def test_what_is_no_run_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], Any], words: str, enter: Callable[[Path], RunFolder]
) -> None:
    make(tmp_path / "run")
    with pytest.raises(InputError) as caught:
        enter(tmp_path / "run")
    assert repr(str(tmp_path / "run")) in str(caught.value)
    assert words in str(caught.value)


def test_a_run_is_open_to_one_at_a_time(run: RunFolder) -> None:
    pytest.importorskip("fcntl")
    with pytest.raises(InputError, match="in use") as caught:
        RunFolder.open(run.path)
    assert repr(str(run.path)) in str(caught.value)
    RunFolder.look(run.path).rows()
    run.close()

    second = RunFolder.open(run.path)
    with pytest.raises(InputError, match="in use"):
        RunFolder.open(run.path)
    second.close()
    RunFolder.open(run.path).close()


def test_what_is_no_file_is_no_checkpoint(run: RunFolder) -> None:
    run.save_checkpoint(a_state(1), DECIDING, keep=3)
    run.checkpoint_file(9).mkdir()
    found = run.latest_checkpoint()
    assert found is not None
    assert found[0].step == 1


def test_what_a_killed_writer_left_is_removed_when_the_run_is_continued(run: RunFolder) -> None:
    run.close()
    left = [run.path / ".config.toml.123.part", run.checkpoint_folder / ".step-00000001.safetensors.123.part"]
    for path in left:
        path.write_bytes(b"half")
    RunFolder.open(run.path).close()
    assert not any(path.exists() for path in left)


def test_a_folder_that_another_process_has_just_taken_stays_whole(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="runs are locked on POSIX systems only")
    first = RunFolder.create(tmp_path / "run", {"seed": 1})
    second = RunFolder(tmp_path / "run")
    second._made_folders = [second.checkpoint_folder, second.path]  # as if it had looked before the first was there
    with pytest.raises(InputError, match="is in use"):
        second._take()
    second.discard()
    assert first.config_values() == {"seed": 1}
    assert first.checkpoint_folder.is_dir()
    first.close()


# --- rows ---------------------------------------------------------------------------


def row(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "compute_s": 0.5, "dispatch_gather_s": 0.25, "update_s": 0.125}


def with_rows(run: RunFolder, n_rows: int) -> RunFolder:
    for step in range(1, n_rows + 1):
        run.append(row(step))
    run.close()
    return RunFolder.open(run.path)


def test_rows_come_back_as_they_were(run: RunFolder) -> None:
    run = with_rows(run, 4)
    assert run.rows() == [row(step) for step in (1, 2, 3, 4)]
    run.close()


def test_a_run_that_has_no_rows_yet_has_none(run: RunFolder) -> None:
    run.metrics_file.unlink()
    assert run.rows() == []


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', "\0\0\0\0", '{"loss": 1}\n', "[6]\n", "\udcff\udcfe"])
def test_continuing_drops_later_and_torn_rows(run: RunFolder, torn: str) -> None:
    run = with_rows(run, 5)
    with run.metrics_file.open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    assert run.continue_rows(3) == [row(1), row(2), row(3)]
    run.append(row(4) | {"again": True})
    run.close()
    lines = run.metrics_file.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(1), row(2), row(3), row(4) | {"again": True}]


@pytest.mark.parametrize("damage", [b"\0\xff", b"[2]", b'{"step": 2}', b'{"step": 2, "loss": 1, "compute_s": "x"}'])
def test_a_damaged_line_is_named_and_costs_no_other_row(
    run: RunFolder, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run = with_rows(run, 5)
    lines = run.metrics_file.read_bytes().splitlines()
    run.metrics_file.write_bytes(b"\n".join([lines[0], damage, *lines[2:], b""]))
    with pytest.raises(InputError, match=r"metrics\.jsonl has a line 2 that is not a row of a step"):
        run.rows()
    assert run.continue_rows(4) == [row(1), row(3), row(4)]
    run.close()
    assert run.metrics_file.read_bytes().splitlines() == [lines[0], damage, lines[2], lines[3]]
    said = [record.getMessage() for record in caplog.records]
    assert "a line 2 that is not a row" in said[0]
    assert "has rows of 3 of the 4 steps done" in said[1]


def test_rows_that_are_gone_are_missed(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run = with_rows(run, 3)
    run.metrics_file.unlink()
    assert run.continue_rows(3) == []
    run.close()
    assert "has rows of 0 of the 3 steps done" in caplog.text


def test_a_number_that_is_not_finite_is_null_in_every_file(run: RunFolder) -> None:
    run.append(row(1) | {"test_loss": float("inf")})
    run.write_result({"loss": float("nan"), "nested": [{"x": -float("inf")}]})
    run.close()
    assert json.loads(run.metrics_file.read_text())["test_loss"] is None
    assert json.loads(run.result_file.read_text()) == {"loss": None, "nested": [{"x": None}]}


def test_continuing_from_before_the_first_step_drops_all_rows(run: RunFolder) -> None:
    run = with_rows(run, 2)
    assert run.continue_rows(0) == []
    run.close()
    assert run.metrics_file.read_bytes() == b""


def test_a_checkpoint_brings_the_rows_before_it_to_the_disk(run: RunFolder) -> None:
    run.append(row(1))
    run.save_checkpoint(a_state(1), DECIDING, keep=1)
    assert RunFolder.look(run.path).rows() == [row(1)]


def test_rows_that_cannot_be_continued_are_kept_and_it_is_said(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_rows(run, 5)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", no_space)
            with pytest.raises((InputError, TrainingError), match="No space left"):
                run.continue_rows(3)
        assert len(run.rows()) == 5
    finally:
        run.close()


def test_a_run_can_be_closed_on_a_full_disk(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for step in range(1, 50):
        run.append(row(step))
    try:
        with files_limited_to(100):
            with pytest.raises(TrainingError, match=r"cannot be written"):
                run.save_checkpoint(a_state(49), DECIDING, keep=1)
            run.close()
    finally:
        run.close()


# --- the checksum of parameters -----------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_the_checksum_is_over_the_little_endian_bytes(dtype: str) -> None:
    numbers = np.random.default_rng(0).standard_normal(100)
    params: NDArray[np.floating] = numbers.astype(dtype)
    expected = hashlib.sha256(numbers.astype("<" + dtype[1:]).tobytes()).hexdigest()
    assert params_sha256(params) == expected
    assert params_sha256(np.repeat(params, 2)[::2]) == expected


def test_the_checksum_tells_zeros_of_either_sign_apart() -> None:
    assert params_sha256(np.array([0.0])) != params_sha256(np.array([-0.0]))
