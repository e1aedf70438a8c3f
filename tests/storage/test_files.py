"""Files are replaced as a whole, and locked by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distnum.storage.files import lock, part_of, read_toml, remove_parts, write_whole
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


NAMES = [f".file.{os.getpid()}.part", ".file.0123456789abcdef.part"]


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("stale", [b"stale", None])
@pytest.mark.parametrize("name", NAMES, ids=["of this process", "random"])
def test_a_stale_temporary_file_is_never_put_in_place_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool, stale: bytes | None, name: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "mine").write_bytes(b"mine")
    if stale is None:
        (tmp_path / name).symlink_to(tmp_path / "mine")
    else:
        (tmp_path / name).write_bytes(stale)
    # Even the name that will be chosen is taken.
    monkeypatch.setattr("distnum.storage.files.token_hex", lambda _: "0123456789abcdef")
    if not nameless:
        monkeypatch.setattr("distnum.storage.files._nameless", lambda folder: None)
    if name == NAMES[0]:
        write_whole(tmp_path / "file", b"new")
    else:
        with pytest.raises(FileExistsError):
            write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == (b"new" if name == NAMES[0] else b"old")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "file").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "file").is_symlink()


def test_a_file_goes_to_the_folder_in_which_writing_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    fsync = os.fsync

    def swap(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        (tmp_path / "folder").rename(tmp_path / "moved")
        (tmp_path / "folder").symlink_to(tmp_path / "other")

    monkeypatch.setattr(os, "fsync", swap)
    write_whole(tmp_path / "folder" / "file", b"new")
    assert names_in(tmp_path / "moved") == ["file"]
    assert names_in(tmp_path / "other") == []


def test_only_temporary_files_of_distnum_are_removed(tmp_path: Path) -> None:
    others = [".hidden.part", ".download.xyz.part", "a.12.part", "mine"]
    for name in [*others, ".config.toml.123.part", part_of(tmp_path / "x").name]:
        (tmp_path / name).write_bytes(b"")
    remove_parts(tmp_path)
    assert names_in(tmp_path) == sorted(others)
    remove_parts(tmp_path / "missing")


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


def test_a_configuration_that_the_user_names_may_be_a_pipe() -> None:
    if not os.path.exists("/dev/fd"):
        pytest.skip("this system has no names of open files")
    reading, writing = os.pipe()
    os.write(writing, b"steps = 3")
    os.close(writing)
    assert read_toml(Path(f"/dev/fd/{reading}")) == {"steps": 3}  # as a shell names it in --config <(...)
    os.close(reading)
