"""The folder of a session: closed to other users, in a place where nobody can replace it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distnum.common.errors import TrainingError
from distnum.workers.ray_pool import folder as folder_module
from distnum.workers.ray_pool.folder import cleaned_up, session_folder
from tests.second_user import OTHER_USER, as_other_user, needs_root
from tests.system.processes import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have other permissions there")

LONGEST_PID = 4194304


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short name, as the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        yield Path(name)


def test_the_folder_is_closed_and_goes_with_all_that_is_in_it(base: Path) -> None:
    with session_folder() as folder:
        assert folder.path.parent == base
        assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(folder.shared).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(folder.token).st_mode) == 0o600
        assert len(folder.token.read_text()) == 64
        folder.ray.mkdir()
        (folder.ray / "log").write_text("x")
        folder.check()
    assert not list(base.iterdir())


def test_each_session_has_a_token_of_its_own() -> None:
    with session_folder() as one, session_folder() as other:
        assert one.token.read_text() != other.token.read_text()


def test_paths_of_sockets_are_short_enough(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: LONGEST_PID)
    with session_folder() as folder:
        session = f"session_2026-11-28_03-55-01_488060_{LONGEST_PID}"
        assert len(os.fsencode(folder.ray / session / "sockets" / "plasma_store")) <= 103
    assert not folder.path.exists()


def test_a_folder_that_was_opened_or_replaced_is_refused() -> None:
    with session_folder() as folder:
        folder.path.chmod(0o711)
        with pytest.raises(TrainingError, match=r"open to other users: its mode is 0711"):
            folder.check()
        folder.path.chmod(0o700)
        folder.path.rename(kept := folder.path.with_name(f"{folder.path.name}x"))
        try:
            folder.path.mkdir(0o700)
            with pytest.raises(TrainingError, match="has been replaced"):
                folder.check()
            folder.path.rmdir()
            folder.path.symlink_to(kept)
            with pytest.raises(TrainingError, match="has been replaced"):
                folder.check()
            folder.path.unlink()
        finally:
            kept.rename(folder.path)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2777])
def test_a_folder_in_which_others_can_rename_is_not_used(base: Path, mode: int) -> None:
    base.chmod(mode)
    with session_folder() as folder:
        assert folder.path.parent != base


@pytest.mark.parametrize("mode", [0o1777, 0o2755, 0o755])
def test_a_folder_that_is_safe_is_used_whatever_its_group_bits(base: Path, mode: int) -> None:
    base.chmod(mode)
    with session_folder() as folder:
        assert folder.path.parent == base
        assert stat.S_IMODE(os.stat(folder.path).st_mode) & 0o777 == 0o700


@needs_root
def test_a_folder_of_another_user_is_not_used(base: Path) -> None:
    os.chown(base, OTHER_USER, OTHER_USER)
    with session_folder() as folder:
        assert folder.path.parent != base


@needs_root
def test_the_error_names_every_folder_that_was_tried(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_FALLBACKS", ())
    base.chmod(0o777)
    with pytest.raises(TrainingError, match=rf"in '{base}' \(other users could rename what lies in '{base}': its mode"):
        session_folder().__enter__()
    long = base / ("x" * 100)
    long.mkdir()
    base.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(TrainingError, match=r"its name is \d+ bytes too long for sockets"):
        session_folder().__enter__()


@needs_root
def test_another_user_sees_nothing_in_the_folder() -> None:
    with session_folder() as folder:
        folder.ray.mkdir()
        folder.ray.chmod(0o777)  # as Ray does
        (folder.ray / "log").write_text("x")
        (folder.ray / "log").chmod(0o666)
        assert as_other_user(lambda: os.listdir(folder.path)).startswith("PermissionError")
        assert as_other_user(lambda: os.listdir(folder.ray)).startswith("PermissionError")
        assert as_other_user(lambda: (folder.ray / "log").read_text()).startswith("PermissionError")
        assert as_other_user(lambda: (folder.ray / "new").write_text("x")).startswith("PermissionError")
        assert as_other_user(lambda: folder.path.rename(f"{folder.path}x")).startswith("PermissionError")


def test_the_end_does_not_wait_for_a_copy_of_the_process() -> None:
    reading, writing = os.pipe()
    with session_folder() as folder, cleaned_up(folder, "MARK=none"):
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)  # until the test has closed the pipe
            os._exit(0)
    assert not folder.path.exists()
    os.close(writing)
    os.close(reading)
    os.waitpid(pid, 0)


def test_a_copy_of_the_process_does_not_remove_the_folder() -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(session_folder())
        stack.enter_context(cleaned_up(folder, "MARK=none"))
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                stack.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert folder.token.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the folder is removed on Linux only")
def test_the_folder_of_a_killed_process_goes_though_a_copy_of_it_lives_on() -> None:
    reading, writing = os.pipe()
    driver = os.fork()
    if driver == 0:
        with session_folder() as folder, cleaned_up(folder, "MARK=none"):
            copy = os.fork()
            if copy == 0:
                signal.pause()
            os.write(writing, f"{copy} {folder.path}".encode())
            signal.pause()
    answer = os.read(reading, 1000).decode()
    copy, path = int(answer.split()[0]), Path(answer.split()[1])
    try:
        assert path.exists()
        os.kill(driver, signal.SIGKILL)
        os.waitpid(driver, 0)
        wait_for(lambda: not path.exists(), 20, "the removal of the folder")
    finally:
        os.kill(copy, signal.SIGKILL)
        os.close(reading)
        os.close(writing)
