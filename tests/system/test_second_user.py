"""A real training on workers, seen and disturbed by another user of the machine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distnum.common.errors import InputError
from distnum.workers.ray_pool.address import cluster_address
from tests.second_user import all_as_other_user, as_other_user, needs_root
from tests.system.processes import checkpoints, descendants, run, sha256, started, wait_for

pytestmark = [needs_root, pytest.mark.ray]

TRAIN = ["train", "--hidden", "8", "--steps", "6", "--batch-size", "20", "--workers", "2", "--quiet"]
SECRET = "the-token-of-another-cluster"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that every user can write to, as ``/tmp`` is."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
        os.chmod(name, 0o1777)
        yield Path(name)


def own_files(temporary: Path) -> list[Path]:
    """All that the session has made."""
    (folder,) = temporary.glob("distnum-????????")
    return [folder, *folder.rglob("*")]


def attempts(path: Path) -> list[Callable[[], object]]:
    """Open, list, connect to or change something."""

    def connect() -> object:
        with socket.socket(socket.AF_UNIX) as end:
            return end.connect(str(path)) if path.is_socket() else path.stat()

    return [
        lambda: os.listdir(path),
        lambda: path.read_bytes()[:1],
        lambda: os.open(path, os.O_WRONLY),
        lambda: path.rename(f"{path}x"),
        connect,
    ]


def test_another_user_can_open_nothing_of_a_training(tmp_path: Path, temporary: Path) -> None:
    home = tmp_path / "home"  # does not exist: Ray would write its token there
    shared_memory = set(os.listdir("/dev/shm"))
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(home), "RAY_AUTH_TOKEN": SECRET}
    command = [*TRAIN[:-5], "--batch-size", "50", "--steps", "100000", "--workers", "2", "--checkpoint-every", "5"]
    with started(*command, "--out", "run", cwd=tmp_path, env=environment) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 120, "a step on workers")
        files = own_files(temporary)
        assert {"plasma_store", "raylet", "token"} <= {file.name for file in files}
        assert any(file.is_socket() and file.parent.name == "shared" for file in files)
        (token_file,) = (file for file in files if file.name == "token")
        token = token_file.read_text()

        refused: dict[str, Callable[[], object]] = {
            "list the folder": lambda: os.listdir(files[0]),
            "move the folder": lambda: files[0].rename("x"),
            "write in the folder": lambda: (files[0] / "x").mkdir(),
        }
        for file in [token_file, *(file for file in files if file.is_socket() or "vectors" in file.name)]:
            refused |= {f"{number} {file}": attempt for number, attempt in enumerate(attempts(file))}
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # the files of a step come and go
                if file.lstat().st_mode & 0o077 and not file.is_symlink():
                    refused[f"look at {file}"] = file.stat
        for name in set(os.listdir("/dev/shm")) - shared_memory:
            assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) & 0o077 == 0, name

        for one in descendants(process):
            command_line = " ".join(one.cmdline())
            assert token not in command_line
            assert SECRET not in command_line
            if "DISTNUM_SESSION" in one.environ():
                assert SECRET not in one.environ().values()
                assert one.environ()["RAY_AUTH_TOKEN_PATH"] == str(token_file)
            refused[f"environment of {one.pid}"] = Path(f"/proc/{one.pid}/environ").read_bytes
        answers = dict(zip(refused, all_as_other_user(refused.values()), strict=True))
        assert {what: told for what, told in answers.items() if not told.startswith("PermissionError")} == {}
        written = [file for file in files if file.is_file() and file != token_file and file.stat().st_size < 10**6]
        assert not [file for file in written if token.encode() in file.read_bytes()]
        process.terminate()
        process.communicate(timeout=60)
    wait_for(lambda: not list(temporary.iterdir()), 20, "the removal of the folder")
    assert not home.exists()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


@pytest.mark.slow
def test_what_another_user_leaves_for_us_neither_leads_us_elsewhere_nor_stops_us(
    tmp_path: Path, temporary: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"127.0.0.1:{trap.getsockname()[1]}"
        future = 4_000_000_000

        def plant() -> str:
            (temporary / "ray").mkdir(0o700)
            (temporary / "ray" / "ray_current_cluster").write_text(address)
            (temporary / "ray" / "session_latest").symlink_to("/root")
            for name in ("distnum-aaaaaaaa", "distnum-\n\x1b[31m", "distnum-kept-x", ".lock", "tpu_logs"):
                (temporary / name).mkdir(0o777)
                os.utime(temporary / name, (future, future))
            (temporary / "distnum-bbbbbbbb").symlink_to("/root")
            os.mkfifo(temporary / "distnum-cccccccc")
            return "planted"

        assert as_other_user(plant) == "planted"
        planted = sorted(temporary.rglob("*"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(temporary))
            patch.delenv("RAY_ADDRESS", raising=False)
            done = run(*TRAIN, "--out", "run", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            with contextlib.suppress(InputError):  # unless a cluster of this user runs here
                assert cluster_address("auto") != address
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has connected
            trap.accept()
    assert sorted(temporary.rglob("*")) == planted
    alone = run(*TRAIN, "--workers", "0", "--out", "alone", cwd=tmp_path)
    assert alone.returncode == 0
    assert sha256(tmp_path / "run") == sha256(tmp_path / "alone")
