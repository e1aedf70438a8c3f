"""Files are replaced as a whole, and locked by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distnum.storage.files import lock, write_whole
from tests.storage.helpers import files_limited_to, names_in, no_space


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"", b"second" * 1000):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
        assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_only_the_old_file(
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


def test_a_write_that_stops_halfway_leaves_only_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with files_limited_to(1000), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "file", b"x" * 100_000)
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupted_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_locked_path_cannot_be_locked_again_until_it_is_released(tmp_path: Path, name: str) -> None:
    pytest.importorskip("fcntl", reason="paths are locked on POSIX systems only")
    (tmp_path / "folder").mkdir()
    path, flags = tmp_path / name, os.O_RDONLY if name == "folder" else os.O_WRONLY | os.O_CREAT
    held = lock(path, flags)
    assert held is not None
    with pytest.raises(BlockingIOError):
        lock(path, flags)
    os.close(held)
    held = lock(path, flags)
    assert held is not None
    os.close(held)


def test_a_file_system_without_locks_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="paths are locked on POSIX systems only")

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    for _ in range(2):
        held = lock(tmp_path)
        assert held is not None
        os.close(held)
