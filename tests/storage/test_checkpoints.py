"""Checkpoints are read back bit for bit or refused; a crash or a full disk loses none of the older ones."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distnum import InputError, TrainingError
from distnum.storage.checkpoints import State, checkpoint_bytes, params_sha256, read_checkpoint
from distnum.storage.files import CheckpointError
from distnum.storage.run_folder import RunFolder
from tests.storage.helpers import IDENTITY, assert_same_bits, make_state, names_in, no_space

# --- content ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_is_read_back_bit_for_bit(dtype: str) -> None:
    params = np.array([0.1, -0.0, 1 / 3, 1e-45, np.inf, np.nan, np.finfo(dtype).tiny / 4], dtype)
    state = State(123_456_789, params, {"mean": -params, "square": params[::-1].copy()})
    read, identity = read_checkpoint(checkpoint_bytes(state, IDENTITY))
    assert_same_bits(read, state)
    assert identity == IDENTITY


def test_a_checkpoint_without_optimizer_state_has_none() -> None:
    state = State(0, np.arange(3.0), {})
    read, identity = read_checkpoint(checkpoint_bytes(state, {}))
    assert_same_bits(read, state)
    assert identity == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_flipped_bit_is_detected(dtype: str) -> None:
    content = checkpoint_bytes(make_state(dtype=dtype), IDENTITY)
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointError):
                read_checkpoint(bytes(damaged))


def test_a_changed_byte_never_changes_what_is_read() -> None:
    """White space in the header may be other white space; all else is refused."""
    state = make_state()
    content = checkpoint_bytes(state, IDENTITY)
    refused = 0
    for position in range(len(content)):
        for value in (0, 9, 10, 32, 48, 57, 255):
            damaged = bytearray(content)
            damaged[position] = value
            try:
                read, identity = read_checkpoint(bytes(damaged))
            except CheckpointError:
                refused += 1
                continue
            assert_same_bits(read, state)
            assert identity == IDENTITY
    assert refused > 5 * len(content)


def test_every_other_length_is_refused() -> None:
    content = checkpoint_bytes(make_state(), IDENTITY)
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


def test_a_header_with_a_length_of_terabytes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cut short"):
        read_checkpoint((2**42).to_bytes(8, "little") + b"{}")


# --- files --------------------------------------------------------------------------


def test_a_run_without_checkpoints_has_no_latest_one(run: RunFolder) -> None:
    assert run.checkpoints.latest() is None


def test_the_latest_checkpoint_is_the_one_of_the_last_step(run: RunFolder) -> None:
    for step in (9, 10, 2):
        run.checkpoints.save(make_state(step), IDENTITY, keep=5)
    latest = run.checkpoints.latest()
    assert latest is not None
    assert_same_bits(latest[0], make_state(10))
    assert latest[1:] == (IDENTITY, [])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_are_kept(run: RunFolder, keep: int) -> None:
    for step in range(1, 6):
        saved = run.checkpoints.save(make_state(step), IDENTITY, keep)
        assert saved == run.checkpoints.file(step)
        assert saved.exists()
    kept = [run.checkpoints.file(step).name for step in range(6 - keep, 6)]
    assert names_in(run.checkpoints.folder) == kept


def test_checkpoints_are_ordered_by_step_for_any_number_of_digits(run: RunFolder) -> None:
    for step in (99_999_999, 100_000_000):
        run.checkpoints.save(make_state(step), IDENTITY, keep=1)
    latest = run.checkpoints.latest()
    assert latest is not None
    assert latest[0].step == 100_000_000


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_tear, _empty, _flip])
def test_a_damaged_newest_checkpoint_is_skipped_and_named(run: RunFolder, damage: Callable[[Path], None]) -> None:
    for step in (10, 20, 30):
        run.checkpoints.save(make_state(step), IDENTITY, keep=3)
    damage(run.checkpoints.file(30))
    latest = run.checkpoints.latest()
    assert latest is not None
    state, identity, remarks = latest
    assert_same_bits(state, make_state(20))
    assert identity == IDENTITY
    assert len(remarks) == 1
    assert run.checkpoints.file(30).name in remarks[0]


def test_a_run_with_only_damaged_checkpoints_is_refused_and_names_them(run: RunFolder) -> None:
    for step in (10, 20):
        run.checkpoints.save(make_state(step), IDENTITY, keep=3)
        _tear(run.checkpoints.file(step))
    with pytest.raises(InputError) as caught:
        run.checkpoints.latest()
    assert str(run.path) in str(caught.value)
    for step in (10, 20):
        assert run.checkpoints.file(step).name in str(caught.value)


def test_a_file_half_written_before_a_crash_is_not_a_checkpoint(run: RunFolder) -> None:
    saved = run.checkpoints.save(make_state(1), IDENTITY, keep=3)
    (run.checkpoints.folder / ".step-00000002.safetensors.123.part").write_bytes(saved.read_bytes()[:50])
    latest = run.checkpoints.latest()
    assert latest is not None
    assert (latest[0].step, latest[2]) == (1, [])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.checkpoints.save(make_state(1), IDENTITY, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(TrainingError) as caught:
            run.checkpoints.save(make_state(2), IDENTITY, keep=1)
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert f"distnum resume {run.path}" in str(caught.value)
    assert names_in(run.checkpoints.folder) == [run.checkpoints.file(1).name]
    latest = run.checkpoints.latest()
    assert latest is not None
    assert_same_bits(latest[0], make_state(1))


def test_a_folder_is_not_a_checkpoint(run: RunFolder) -> None:
    run.checkpoints.save(make_state(1), IDENTITY, keep=3)
    run.checkpoints.file(9).mkdir()
    latest = run.checkpoints.latest()
    assert latest is not None
    assert latest[0].step == 1


# --- checksum of parameters ---------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_the_checksum_is_over_the_little_endian_bytes(dtype: str) -> None:
    numbers = np.random.default_rng(0).standard_normal(100)
    params: NDArray[np.floating] = numbers.astype(dtype)
    expected = hashlib.sha256(numbers.astype("<" + dtype[1:]).tobytes()).hexdigest()
    assert params_sha256(params) == expected
    assert params_sha256(np.repeat(params, 2)[::2]) == expected


def test_the_checksum_of_zero_and_negative_zero_differs() -> None:
    assert params_sha256(np.array([0.0])) != params_sha256(np.array([-0.0]))
