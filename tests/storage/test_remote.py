"""Runs and data at URIs: the same promises as in a folder, on a file system and on a real S3 server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.cli.main import main
from distnum.storage.mirror import Mirror
from distnum.storage.remote import run_exists
from distnum.storage.run_folder import RunFolder
from distnum.storage.uris import check_no_password

fsspec = pytest.importorskip("fsspec")

SMALL: dict[str, Any] = {"hidden": (6,), "batch_size": 20, "workers": 0, "checkpoint_every": 5, "evaluate_every": 10}


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3-compatible server in a process of its own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new place for runs."""
    if request.param == "file":
        return (tmp_path / "there").as_uri()
    address = request.getfixturevalue("s3_server")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(f"runs-{tmp_path.name.replace('_', '-').lower()[-40:]}".strip("-"))
    return f"s3://runs-{tmp_path.name.replace('_', '-').lower()[-40:]}".rstrip("-") + "/there"


def files(place: str) -> dict[str, bytes]:
    fs, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
    fs.invalidate_cache()
    found = fs.find(root) if fs.exists(root) else []
    return {str(path).split("/there/", 1)[1]: fs.cat_file(path) for path in found}


def test_a_run_is_kept_there_and_read_from_there(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = distnum.train(**SMALL, steps=12, out=place)
    assert result.folder == place
    there = files(place)
    assert {"config.toml", "metrics.jsonl", "model.safetensors", "result.json"} <= set(there)
    assert {name for name in there if name.startswith("checkpoints/")} == {
        f"checkpoints/step-{step:08d}.safetensors" for step in (5, 10, 12)
    }
    assert json.loads(there["result.json"])["params_sha256"] == result.params_sha256
    assert len(there["metrics.jsonl"].splitlines()) == 12
    assert not [name for name in there if name.endswith(".part") or "lock" in name]
    assert main(["evaluate", place]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert distnum.load(place).network.n_params == result.network.n_params
    with pytest.raises(InputError, match="where something is; continue it with: distnum resume"):
        distnum.train(**SMALL, steps=12, out=place)


def test_a_run_goes_on_from_there_to_the_same_bits(place: str) -> None:
    expected = distnum.train(**SMALL, steps=17).params_sha256
    stopped = distnum.train(**SMALL, steps=17, out=place, on_step=lambda step, row: step.step == 8)
    assert not stopped.completed
    resumed = distnum.train(out=place, resume=True)
    assert resumed.params_sha256 == expected
    assert [row["step"] for row in resumed.metrics] == list(range(1, 18))


def test_a_killed_run_goes_on_from_its_last_checkpoint(place: str) -> None:
    expected = distnum.train(**SMALL, steps=40).params_sha256
    code = (
        "import os, distnum\n"
        f"distnum.train(**{SMALL!r}, steps=40, out={place!r}, "
        "on_step=lambda step, row: os.kill(os.getpid(), 9) if step.step == 23 else None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    there = files(place)
    last = max(name for name in there if name.startswith("checkpoints/"))
    assert last in ("checkpoints/step-00000015.safetensors", "checkpoints/step-00000020.safetensors")
    # Nothing of the dead process stays here, and the lock that it has left there is taken over.
    deadline = time.monotonic() + 10
    while list(Path(tempfile.gettempdir()).glob("distnum-mirror-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert distnum.train(out=place, resume=True).params_sha256 == expected


def test_a_torn_checkpoint_there_is_passed_over(place: str) -> None:
    distnum.train(**SMALL, steps=30, out=place, on_step=lambda step, row: step.step == 12)
    fs, root = fsspec.core.url_to_fs(place)
    newest = f"{root}/checkpoints/step-00000012.safetensors"
    fs.pipe_file(newest, fs.cat_file(newest)[:-20])
    expected = distnum.train(**SMALL, steps=30).params_sha256
    assert distnum.train(out=place, resume=True).params_sha256 == expected


def test_a_place_in_use_is_refused(place: str) -> None:
    distnum.train(**SMALL, steps=6, out=place, on_step=lambda step, row: step.step == 3)
    held = RunFolder.open(place)
    try:
        with pytest.raises(InputError, match="is in use: another distnum process is training in it"):
            distnum.train(out=place, resume=True)
    finally:
        held.close()
    assert distnum.train(out=place, resume=True).completed


def test_one_that_has_not_been_heard_of_for_long_is_gone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Mirror(place), Mirror(place)
    monkeypatch.setattr("distnum.storage.mirror.this_machine", lambda: "another")
    one.take()
    monkeypatch.undo()
    with pytest.raises(InputError, match="is in use"):
        other.take()
    monkeypatch.setattr("distnum.storage.mirror._GONE_S", -1.0)
    other.take()
    for mirror in (one, other):
        mirror.close()
    assert not mirror.folder.exists()


def test_a_place_that_cannot_be_written_stops_or_is_tried_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put, failing = Mirror._put, [False]

    def sometimes(self: Mirror, name: str, content: bytes) -> None:
        if failing[0] and name.startswith("checkpoints/"):
            raise OSError("no route to host")
        put(self, name, content)

    monkeypatch.setattr(Mirror, "_put", sometimes)
    failing[0] = True
    with pytest.raises(TrainingError, match=r"cannot be written: no route to host. What was written before is intact"):
        distnum.train(**SMALL, steps=30, out=f"{place}/stops")

    def mend(step: Any, row: Any) -> None:
        failing[0] = step.step < 12

    result = distnum.train(**SMALL, steps=30, out=f"{place}/goes-on", on_write_error="continue", on_step=mend)
    assert result.completed
    assert any(event["event"] == "not_written" for event in result.events)
    assert "goes-on/result.json" in files(place)


def test_who_has_lost_the_place_writes_nothing_more(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = RunFolder.create(place, {"steps": 3})
    slow.append({"step": 1})
    slow.publish()
    monkeypatch.setattr("distnum.storage.mirror._GONE_S", -1.0)
    quick = Mirror(place)
    quick.take()
    before = files(place)
    slow.append({"step": 2})
    with pytest.raises(TrainingError, match="another process has taken this run over"):
        slow.publish()
    assert files(place) == before
    quick.close()  # which has done all that was to do
    before = files(place)
    slow.close()
    assert files(place) == before


def test_what_is_lost_here_is_not_removed_there(place: str) -> None:
    run = RunFolder.create(place, {"steps": 3})
    run.append({"step": 1})
    run.publish()
    run.config_file.unlink()
    with pytest.raises(TrainingError, match=r"has lost config\.toml"):
        run.publish()
    run.close()
    assert {"config.toml", "metrics.jsonl"} <= set(files(place))


def test_what_cannot_be_put_there_at_the_end_is_kept_here(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = RunFolder.create(place, {"steps": 3})
    run.append({"step": 1})
    monkeypatch.setattr(Mirror, "_put", lambda self, name, content: (_ for _ in ()).throw(OSError("no route")))
    run.close()
    (kept,) = tmp_path.glob("distnum-kept-*")
    message = "cannot be written: no route. What was written before is intact; continue with: distnum resume"
    assert f"{message} {place} " in caplog.text
    assert f"What is not there is kept in {kept}." in caplog.text
    assert (kept / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_slices_of_a_long_step_are_put_there(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from distnum.training.keeper import Keeper
    from distnum.training.prepare import network_job

    job = network_job(distnum.Config(hidden=(6,), batch_size=20))
    run = RunFolder.create(place, job.folder_config())
    run.append({"step": 1})
    keeper = Keeper(run, job)
    keeper.slices._after_s = 0
    params = job.initial.params
    keeper.slices.recall(2, params, np.zeros_like(params))
    keeper.slices.finished(np.arange(5), np.ones_like(params), 2.5)
    keeper.close()
    assert "unfinished/000001.safetensors" in files(place)
    # They may go while they are put there.
    put = Mirror._put

    def slowly(self: Mirror, name: str, content: bytes) -> None:
        keeper.slices.clear()
        put(self, name, content)

    run.append({"step": 2})
    run.write_rows()
    (run.slices_folder / "000002.safetensors").write_bytes(b"more")
    monkeypatch.setattr(Mirror, "_put", slowly)
    run.publish()
    run.publish()
    assert not [name for name in files(place) if name.startswith("unfinished/")]
    run.close()


def test_names_that_lead_elsewhere_are_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(place)
    monkeypatch.setattr(mirror._fs, "find", lambda root: [f"{root}/config.toml", f"{root}/../../evil"])
    with pytest.raises(InputError, match=r"'\.\./\.\./evil' lies, which is no file of a run"):
        mirror.fetch()
    mirror.close()


def test_whether_a_run_is_there(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_exists(place)
    distnum.train(**SMALL, steps=2, out=place)
    assert run_exists(place)
    fs, _ = fsspec.core.url_to_fs(place)
    monkeypatch.setattr(type(fs), "exists", lambda self, path: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(InputError, match="which cannot be read: no route"):
        run_exists(place)


def test_a_password_in_a_uri_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "ftp://user:secret@127.0.0.1/x"
    small = ["train", "--steps", "1", "--workers", "0"]
    for arguments in ([*small, "--out", uri], [*small, "--data", uri], ["resume", uri], ["evaluate", uri]):
        assert main(arguments) == 2
        printed = capsys.readouterr().err
        assert "is a URI that holds a password" in printed
        assert "secret" not in printed


@pytest.mark.parametrize(
    "signed",
    [
        "https://bucket.s3.amazonaws.com/x.npz?X-Amz-Date=1&X-Amz-Signature=0a1b",
        "https://account.blob.core.windows.net/c/x.npz?sv=2024&sig=0a1b",
        "https://storage.googleapis.com/b/x.npz?GoogleAccessId=me&Signature=0a1b",
        "http://host/x.npz?token=0a1b",
        "https://0a1b@host/x.npz",
        "filecache::https://0a1b@host/x.npz",
        "https://host/x.npz?accessToken=0a1b",
    ],
)
def test_a_signed_link_is_refused_and_not_shown(signed: str) -> None:
    with pytest.raises(InputError, match="data is a URI that holds a password or a signature") as refused:
        check_no_password(signed, "data")
    assert "0a1b" not in str(refused.value)


@pytest.mark.parametrize(
    "fine",
    [
        "abfs://container@account.dfs.core.windows.net/run",
        "https://host/x.npz?design=1&monkey=2",
        "runs/a?key=1",
        "s3://b/x",
        None,
    ],
)
def test_other_places_are_taken(fine: str | None) -> None:
    check_no_password(fine, "out")


def test_data_from_there(place: str, tmp_path: Path) -> None:
    dataset = distnum.load_data()
    arrays = {name: getattr(dataset, name)[:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    fs, root = fsspec.core.url_to_fs(place)
    fs.makedirs(root, exist_ok=True)
    fs.put_file(str(tmp_path / "digits.npz"), f"{root}/digits.npz")
    here = distnum.train(**SMALL, steps=3, data=str(tmp_path / "digits.npz"))
    there = distnum.train(**SMALL, steps=3, data=f"{place}/digits.npz")
    assert there.params_sha256 == here.params_sha256
    assert there.config.data == f"{place}/digits.npz"
    with pytest.raises(InputError, match="which is not found"):
        distnum.load_data(f"{place}/nothing.npz")


@pytest.mark.parametrize("uri", ["nosuch://bucket/run", "s3-but-not://x"])
def test_unknown_places_are_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "1", "--workers", "0", "--out", uri]) == 2
    assert f"out is '{uri}', which cannot be opened: Protocol not known" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can write where nobody else may")
def test_a_place_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    place = f"{(tmp_path / 'file').as_uri()}/run"
    assert main(["train", "--steps", "1", "--workers", "0", "--out", place]) == 2
    assert "which cannot be" in capsys.readouterr().err
