"""What others leave at a URI or in the temporary folder is neither trusted nor able to stop a run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import distnum
from distnum import InputError
from distnum.storage.mirror import Mirror
from distnum.storage.remote import TEMPORARY_PREFIX, this_machine
from tests.second_user import OTHER_USER, needs_root
from tests.storage.helpers import deadline

fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and named pipes are those of POSIX")

SMALL: dict[str, Any] = {"hidden": (6,), "batch_size": 20, "workers": 0, "checkpoint_every": 5, "evaluate_every": 10}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, instead of the system's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("distnum.storage.remote_lock._SETTLE_S", 0.0)
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The URI of a new folder for a run."""
    return (tmp_path / "there").as_uri()


# --- the lock -------------------------------------------------------------------------

FUTURE = time.time() + 1e9
ODD_LOCKS: dict[str, str] = {
    "nothing": "",
    "no JSON": "\x00lock",
    "a list": "[1, 2]",
    "nested too deeply": "[" * 100_000,
    "no time": '{"holder": "x"}',
    "time NaN": '{"time": NaN}',
    "time infinite": '{"time": Infinity}',
    "time too large": '{"time": 1' + "0" * 400 + "}",
    "time true": '{"time": [true]}',
    "time in the future": json.dumps({"holder": "x", "host": "y", "pid": 1, "time": FUTURE}),
    "a process that cannot be": json.dumps({"host": this_machine(), "pid": 10**30, "time": FUTURE}),
    "a negative process": json.dumps({"host": this_machine(), "pid": -1, "time": FUTURE}),
    "no process": json.dumps({"host": this_machine(), "pid": None, "time": FUTURE}),
}


@pytest.mark.parametrize("content", ODD_LOCKS.values(), ids=ODD_LOCKS)
def test_an_odd_lock_does_not_stop_a_run(uri: str, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr("distnum.storage.remote_lock._RENEW_S", 0.01)
    fs, root = fsspec.core.url_to_fs(uri)
    fs.makedirs(root, exist_ok=True)
    fs.pipe_file(f"{root}/.lock", content.encode())
    mirror = Mirror(uri)
    with deadline():
        mirror.acquire()
    assert json.loads(fs.cat_file(f"{root}/.lock"))["pid"] == os.getpid()
    mirror.close()


def test_a_lock_of_a_clock_that_is_ahead_counts_while_it_is_renewed(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, root = fsspec.core.url_to_fs(uri)
    fs.makedirs(root, exist_ok=True)
    renewals = []

    def renew(seconds: float) -> None:
        renewals.append(seconds)
        content = {"holder": "x", "host": "y", "pid": 1, "time": FUTURE + (len(renewals) > 2)}
        fs.pipe_file(f"{root}/.lock", json.dumps(content).encode())

    renew(0)
    monkeypatch.setattr("distnum.storage.remote_lock.sleep", renew)
    with pytest.raises(InputError, match="is in use"):
        Mirror(uri).acquire()


# --- the temporary folder -------------------------------------------------------------

ODD_FOLDERS = ["", "x", "-1", "0", "9" * 25, "²", "1/../..".replace("/", "_"), "99999999"]


@pytest.mark.parametrize("pid", ODD_FOLDERS)
def test_folders_of_odd_names_in_the_temporary_folder_do_not_stop_a_run(
    uri: str, temporary_folder: Path, tmp_path: Path, pid: str
) -> None:
    (tmp_path / "mine").mkdir()
    prefix = f"{TEMPORARY_PREFIX}{this_machine()}-{pid}"
    (temporary_folder / f"{prefix}-link").symlink_to(tmp_path / "mine")
    (temporary_folder / f"{prefix}-file").write_bytes(b"")
    os.mkfifo(temporary_folder / f"{prefix}-pipe")
    with deadline():
        Mirror(uri).close()
    assert (tmp_path / "mine").is_dir()


@needs_root
def test_only_abandoned_folders_of_this_user_are_removed(uri: str, temporary_folder: Path) -> None:
    theirs, abandoned = (
        temporary_folder / f"{TEMPORARY_PREFIX}{this_machine()}-99999999-{name}" for name in ("theirs", "mine")
    )
    for folder in (theirs, abandoned):
        folder.mkdir()
        (folder / "file").write_bytes(b"")
    os.chown(theirs, OTHER_USER, OTHER_USER)
    Mirror(uri).close()
    assert (theirs / "file").exists()
    assert not abandoned.exists()


def test_without_a_temporary_folder_a_run_at_a_uri_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(InputError, match="needs a temporary folder here, but none can be made: No such file"):
        Mirror(uri)


# --- a disk that others can write -----------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/step-00000005.safetensors", "checkpoints", ".lock"])
@pytest.mark.parametrize("put", ["link", "pipe"])
def test_links_and_pipes_in_a_run_at_a_uri_of_a_disk_are_refused(tmp_path: Path, name: str, put: str) -> None:
    uri, mine = (tmp_path / "there").as_uri(), tmp_path / "mine"
    distnum.train(**SMALL, steps=8, out=uri, on_step=lambda step, row: step.step == 6)
    path = tmp_path / "there" / name
    if put == "link":
        (path if path.exists() else tmp_path / "there" / "config.toml").rename(mine)
        path.symlink_to(mine)
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.mkfifo(path)
    before = sorted(os.listdir(mine)) if mine.is_dir() else mine.read_bytes() if put == "link" else None
    with deadline(), pytest.raises(InputError):
        distnum.train(out=uri, resume=True)
    assert before == (sorted(os.listdir(mine)) if mine.is_dir() else mine.read_bytes() if put == "link" else None)
