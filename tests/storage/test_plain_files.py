"""Only plain files are opened: no link is followed, and a named pipe is not waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from distnum.storage.plain_files import absolute, append_to, check_plain, open_plain, read_plain
from tests.storage.helpers import deadline

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and named pipes are those of POSIX")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # absolute paths may be too long for sockets


THINGS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.with_name("target")),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a named pipe": lambda path: os.mkfifo(path),
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
@pytest.mark.parametrize("use", [read_plain, check_plain, append_to])
def test_what_is_no_plain_file_is_refused_at_once_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], use: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").write_bytes(b"mine")
    make(tmp_path / "file")
    before = sorted(os.listdir(tmp_path))
    with deadline(), pytest.raises(OSError, match=r"it is (a symbolic link|not a plain file|a folder)|Is a directory"):
        use(tmp_path / "file")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_with_a_second_name_is_read_but_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "file").hardlink_to(tmp_path / "mine")
    assert read_plain(tmp_path / "file") == b"mine"
    with pytest.raises(OSError, match="it has another name, a hard link"):
        append_to(tmp_path / "file")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_plain_file_is_made_and_appended_to(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        with append_to(tmp_path / "file") as file:
            file.write(text)
    assert read_plain(tmp_path / "file") == b"onetwo"


def test_no_file_gets_the_number_of_a_closed_standard_stream(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = os.dup(0)
    os.close(0)
    try:
        descriptor = open_plain(tmp_path / "file", os.O_WRONLY)
        os.close(descriptor)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert descriptor > 2


def test_a_path_in_a_removed_folder_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(Path("run")) == tmp_path / "run"
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert absolute(Path("run")) == Path("run")
