"""Runs and data at URIs keep what folders guarantee, on a file system and on an S3 server."""

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

fsspec = pytest.importorskip("fsspec")

SMALL: dict[str, Any] = {"hidden": (6,), "batch_size": 20, "workers": 0, "checkpoint_every": 5, "evaluate_every": 10}


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an S3-compatible server as a process, and give its address."""
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


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the mirrors' local folders of this process and its children out of the system's temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new folder for runs, whose locks are taken at once."""
    monkeypatch.setattr("distnum.storage.remote_lock._SETTLE_S", 0.0)
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


def files(uri: str) -> dict[str, bytes]:
    fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    fs.invalidate_cache()
    paths = fs.find(root) if fs.exists(root) else []
    return {str(path).split("/there/", 1)[1]: fs.cat_file(path) for path in paths}


def test_a_run_is_written_to_a_uri_and_read_from_it(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = distnum.train(**SMALL, steps=12, out=uri)
    assert result.folder == uri
    there = files(uri)
    assert {"config.toml", "metrics.jsonl", "model.safetensors", "result.json"} <= set(there)
    assert {name for name in there if name.startswith("checkpoints/")} == {
        f"checkpoints/step-{step:08d}.safetensors" for step in (5, 10, 12)
    }
    assert json.loads(there["result.json"])["params_sha256"] == result.params_sha256
    assert len(there["metrics.jsonl"].splitlines()) == 12
    assert not [name for name in there if name.endswith(".part") or "lock" in name]
    assert main(["evaluate", uri]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert distnum.load(uri).network.n_params == result.network.n_params
    with pytest.raises(InputError, match="which is not an empty folder; continue it with: distnum resume"):
        distnum.train(**SMALL, steps=12, out=uri)


def test_a_run_resumed_from_a_uri_has_the_same_bits(uri: str) -> None:
    expected = distnum.train(**SMALL, steps=17).params_sha256
    stopped = distnum.train(**SMALL, steps=17, out=uri, on_step=lambda step, row: step.step == 8)
    assert not stopped.completed
    resumed = distnum.train(out=uri, resume=True)
    assert resumed.params_sha256 == expected
    assert [row["step"] for row in resumed.metrics] == list(range(1, 18))


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(uri: str) -> None:
    expected = distnum.train(**SMALL, steps=40).params_sha256
    code = (
        "import os, distnum\n"
        f"distnum.train(**{SMALL!r}, steps=40, out={uri!r}, "
        "on_step=lambda step, row: os.kill(os.getpid(), 9) if step.step == 23 else None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    there = files(uri)
    last = max(name for name in there if name.startswith("checkpoints/"))
    assert last in ("checkpoints/step-00000015.safetensors", "checkpoints/step-00000020.safetensors")
    # The local folder of the killed process is removed, and its lock at the URI is taken over.
    deadline = time.monotonic() + 10
    while list(Path(tempfile.gettempdir()).glob("distnum-mirror-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert distnum.train(out=uri, resume=True).params_sha256 == expected


def test_an_incomplete_checkpoint_at_a_uri_is_skipped(uri: str) -> None:
    distnum.train(**SMALL, steps=30, out=uri, on_step=lambda step, row: step.step == 12)
    fs, root = fsspec.core.url_to_fs(uri)
    newest = f"{root}/checkpoints/step-00000012.safetensors"
    fs.pipe_file(newest, fs.cat_file(newest)[:-20])
    expected = distnum.train(**SMALL, steps=30).params_sha256
    assert distnum.train(out=uri, resume=True).params_sha256 == expected


def test_a_uri_in_use_is_refused(uri: str) -> None:
    distnum.train(**SMALL, steps=6, out=uri, on_step=lambda step, row: step.step == 3)
    held = RunFolder.open(uri)
    try:
        with pytest.raises(InputError, match="is in use: another distnum process is training in it"):
            distnum.train(out=uri, resume=True)
    finally:
        held.close()
    assert distnum.train(out=uri, resume=True).completed


def test_a_lock_that_was_not_renewed_for_long_expires(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Mirror(uri), Mirror(uri)
    with monkeypatch.context() as patch:
        patch.setattr("distnum.storage.remote_lock.this_machine", lambda: "another")
        one.acquire()
    with pytest.raises(InputError, match="is in use"):
        other.acquire()
    monkeypatch.setattr("distnum.storage.remote_lock._EXPIRY_S", -1.0)
    other.acquire()
    for mirror in (one, other):
        mirror.close()
    assert not mirror.folder.exists()


def test_a_uri_that_cannot_be_written_stops_the_run_or_is_tried_again(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failing = Mirror._put, [False]

    def sometimes(self: Mirror, name: str, content: bytes) -> None:
        if failing[0] and name.startswith("checkpoints/"):
            raise OSError("no route to host")
        put(self, name, content)

    monkeypatch.setattr(Mirror, "_put", sometimes)
    failing[0] = True
    with pytest.raises(TrainingError, match=r"cannot be written: no route to host. What was written before is intact"):
        distnum.train(**SMALL, steps=30, out=f"{uri}/stops")

    def repair(step: Any, row: Any) -> None:
        failing[0] = step.step < 12

    result = distnum.train(**SMALL, steps=30, out=f"{uri}/goes-on", on_write_error="continue", on_step=repair)
    assert result.completed
    assert any(event["event"] == "not_written" for event in result.events)
    assert "goes-on/result.json" in files(uri)


def test_a_process_that_lost_its_lock_writes_nothing_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = RunFolder.create(uri, {"steps": 3})
    slow.rows.append({"step": 1})
    slow.publish()
    monkeypatch.setattr("distnum.storage.remote_lock._EXPIRY_S", -1.0)
    quick = Mirror(uri)
    quick.acquire()
    before = files(uri)
    slow.rows.append({"step": 2})
    with pytest.raises(TrainingError, match="another process has taken this run over"):
        slow.publish()
    assert files(uri) == before
    quick.close()
    before = files(uri)
    slow.close()
    assert files(uri) == before


def test_a_lost_local_file_is_not_removed_at_the_uri(uri: str) -> None:
    run = RunFolder.create(uri, {"steps": 3})
    run.rows.append({"step": 1})
    run.publish()
    run.config_file.unlink()
    with pytest.raises(TrainingError, match=r"has lost config\.toml"):
        run.publish()
    run.close()
    assert {"config.toml", "metrics.jsonl"} <= set(files(uri))


def test_files_that_cannot_be_copied_at_the_end_are_kept(
    uri: str, monkeypatch: pytest.MonkeyPatch, temporary_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder.create(uri, {"steps": 3})
    run.rows.append({"step": 1})
    monkeypatch.setattr(Mirror, "_put", lambda self, name, content: (_ for _ in ()).throw(OSError("no route")))
    run.close()
    (kept,) = temporary_folder.glob("distnum-kept-*")
    message = "cannot be written: no route. What was written before is intact; continue with: distnum resume"
    assert f"{message} {uri} " in caplog.text
    assert f"The local files are kept in {kept}." in caplog.text
    assert (kept / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_slices_of_a_long_step_are_copied_to_the_uri(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from distnum.training.keeper import Keeper
    from distnum.training.prepare import network_job

    job = network_job(distnum.Config(hidden=(6,), batch_size=20))
    run = RunFolder.create(uri, job.folder_config())
    run.rows.append({"step": 1})
    keeper = Keeper(run, job)
    keeper.slices._after_s = 0
    params = job.initial.params
    with keeper.keeping(job.initial, resumed=False):
        keeper.slices.recall(2, params, np.zeros_like(params))
        keeper.slices.finished(np.arange(5), np.ones_like(params), 2.5)
    assert "unfinished/000001.safetensors" in files(uri)
    # Slices may be removed while they are copied.
    put = Mirror._put

    def slowly(self: Mirror, name: str, content: bytes) -> None:
        keeper.slices.clear()
        put(self, name, content)

    run.rows.append({"step": 2})
    run.rows.write()
    (run.slices_folder / "000002.safetensors").write_bytes(b"more")
    monkeypatch.setattr(Mirror, "_put", slowly)
    run.publish()
    run.publish()
    assert not [name for name in files(uri) if name.startswith("unfinished/")]
    run.close()


def test_names_that_lead_out_of_the_folder_are_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(uri)
    monkeypatch.setattr(mirror._fs, "find", lambda root: [f"{root}/config.toml", f"{root}/../../evil"])
    with pytest.raises(InputError, match=r"which holds '\.\./\.\./evil'; a run has no such file"):
        mirror.fetch()
    mirror.close()


def test_run_exists_reports_whether_a_uri_holds_a_run(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_exists(uri)
    distnum.train(**SMALL, steps=2, out=uri)
    assert run_exists(uri)
    fs, _ = fsspec.core.url_to_fs(uri)
    monkeypatch.setattr(type(fs), "exists", lambda self, path: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(InputError, match="which cannot be read: no route"):
        run_exists(uri)


def test_a_password_in_a_uri_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "ftp://user:secret@127.0.0.1/x"
    small = ["train", "--steps", "1", "--workers", "0"]
    for arguments in ([*small, "--out", uri], [*small, "--data", uri], ["resume", uri], ["evaluate", uri]):
        assert main(arguments) == 2
        printed = capsys.readouterr().err
        assert "is a URI that holds a password" in printed
        assert "secret" not in printed


def test_data_can_be_read_from_a_uri(uri: str, tmp_path: Path) -> None:
    dataset = distnum.load_data()
    arrays = {name: getattr(dataset, name)[:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    fs, root = fsspec.core.url_to_fs(uri)
    fs.makedirs(root, exist_ok=True)
    fs.put_file(str(tmp_path / "digits.npz"), f"{root}/digits.npz")
    here = distnum.train(**SMALL, steps=3, data=str(tmp_path / "digits.npz"))
    there = distnum.train(**SMALL, steps=3, data=f"{uri}/digits.npz")
    assert there.params_sha256 == here.params_sha256
    assert there.config.data == f"{uri}/digits.npz"
    with pytest.raises(InputError, match="which is not found"):
        distnum.load_data(f"{uri}/nothing.npz")


@pytest.mark.parametrize("uri", ["nosuch://bucket/run", "s3-but-not://x"])
def test_unknown_protocols_are_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "1", "--workers", "0", "--out", uri]) == 2
    assert f"out is '{uri}', which cannot be opened: Protocol not known" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can write where nobody else may")
def test_a_uri_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    uri = f"{(tmp_path / 'file').as_uri()}/run"
    assert main(["train", "--steps", "1", "--workers", "0", "--out", uri]) == 2
    assert "which cannot be" in capsys.readouterr().err
