"""A run that somebody else has made cannot reach files outside its folder, connect anywhere, or stop its reader."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distnum
from distnum import InputError
from distnum.cli.main import main
from tests.second_user import as_other_user, needs_root
from tests.storage.helpers import deadline
from tests.system.helpers import SMALL

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and named pipes are those of POSIX")

FILES = ["config.toml", "metrics.jsonl", "events.jsonl", ".lock", "checkpoints/step-00000004.safetensors"]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped after step 4 of 8."""
    out = tmp_path / "run"
    options: dict[str, Any] = {**SMALL, "steps": 8, "workers": 0, "checkpoint_every": 2}
    distnum.train(**options, out=out, on_step=lambda step, row: step.step == 4)
    (out / "events.jsonl").write_text("")
    return out


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def _pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def _hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


@pytest.mark.parametrize("put", [_link, _pipe, _hard_link])
@pytest.mark.parametrize("name", FILES)
def test_a_run_whose_file_is_a_link_or_a_pipe_is_refused_or_resumed_and_writes_nothing_elsewhere(
    stopped: Path,
    tmp_path: Path,
    name: str,
    put: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, mine = stopped / name, tmp_path / "mine"
    if path.exists() and path.stat().st_size:
        shutil.copy(path, mine)  # even if the file elsewhere is one that a run could have
    else:
        mine.write_text('{"mine": 1}\n')
    path.unlink()
    put(path, mine)
    before = mine.read_bytes()
    with deadline(30):
        assert main(["resume", str(stopped), "--workers", "0"]) in (0, 2)
        assert "unexpected" not in capsys.readouterr().err
        main(["plot", str(stopped)])
        main(["evaluate", str(stopped)])
    assert mine.read_bytes() == before


@pytest.mark.parametrize("name", ["result.json", "model.safetensors"])
@pytest.mark.parametrize("put", [_link, _pipe])
def test_a_result_or_model_that_is_a_link_or_a_pipe_is_written_again(
    stopped: Path, tmp_path: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    assert distnum.train(out=stopped, resume=True).completed
    shutil.move(stopped / name, tmp_path / "mine")
    put(stopped / name, tmp_path / "mine")
    before = (tmp_path / "mine").read_bytes()
    with deadline(30):
        if name.startswith("model"):
            with pytest.raises(InputError, match=r"symbolic link|no trained model"):
                distnum.load(stopped)
        assert main(["resume", str(stopped), "--quiet"]) == 0
        distnum.load(stopped)
    assert (tmp_path / "mine").read_bytes() == before
    assert not (stopped / name).is_symlink()


@pytest.mark.parametrize("name", ["checkpoints", "unfinished"])
def test_a_run_whose_folder_is_a_link_is_refused_and_nothing_is_removed_there(
    stopped: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    if (stopped / name).is_dir():
        shutil.move(stopped / name, mine)
    mine.mkdir(exist_ok=True)
    for left in ("mine.safetensors", ".x.0123456789abcdef.part"):
        (mine / left).write_bytes(b"mine")
    (stopped / name).symlink_to(mine)
    before = sorted(os.listdir(mine))
    assert main(["resume", str(stopped)]) == 2
    assert f"has a folder {name} that is a symbolic link" in capsys.readouterr().err
    assert sorted(os.listdir(mine)) == before


def test_a_link_to_the_folder_of_a_whole_run_can_be_used(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(stopped)
    assert distnum.train(out=tmp_path / "link", resume=True).completed


def test_a_pipe_among_unfinished_slices_is_passed_over(stopped: Path) -> None:
    (stopped / "unfinished").mkdir()
    os.mkfifo(stopped / "unfinished" / "000001.safetensors")
    with deadline(30):
        assert distnum.train(out=stopped, resume=True).completed


@needs_root
@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "config.toml", ".lock", "unfinished"])
def test_another_user_who_can_write_in_a_run_cannot_lead_it_to_files_of_its_owner(tmp_path: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="dn") as folder:
        os.chmod(folder, 0o755)
        out, mine = Path(folder, "run"), tmp_path / "mine"
        distnum.train(**SMALL, workers=0, out=out, on_step=lambda step, row: step.step == 4)
        out.chmod(0o777)
        mine.mkdir() if name == "unfinished" else mine.write_bytes(b"mine")
        (mine / "mine.safetensors" if name == "unfinished" else mine).write_bytes(b"mine")
        assert as_other_user(lambda: [(out / name).unlink(missing_ok=True), (out / name).symlink_to(mine)])
        assert (out / name).is_symlink()
        assert main(["resume", str(out), "--quiet"]) in (0, 2)
        assert (mine / "mine.safetensors" if name == "unfinished" else mine).read_bytes() == b"mine"


# --- connections ----------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A server that nobody may connect to."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nobody_connects_to_the_cluster_that_a_run_or_a_config_file_names(
    stopped: Path,
    listening: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Another test may have begun a session in this process.
    monkeypatch.setattr("distnum.training.from_files._session_is_chosen", lambda: False)
    monkeypatch.chdir(tmp_path)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    config = stopped / "config.toml"
    _edit(config, "workers = 0", f'workers = 2\naddress = "{address}"')
    for command in (["resume", "run"], ["train", "--config", str(config)], ["scale", "--config", str(config)]):
        assert main(command) == 2
        printed = capsys.readouterr().err
        assert f"config.toml: address is '{address}', but a file does not decide where to connect to" in printed
        assert f"give --address {address} to use that Ray cluster, or --workers N to compute on this machine" in printed
    with pytest.raises(InputError, match="a file does not decide where to connect to"):
        distnum.train(out=stopped, resume=True)
    assert main(["resume", "run", "--workers", "0", "--quiet"]) == 0
    assert main(["train", "--config", str(config), "--workers", "0", "--quiet"]) == 0


@pytest.mark.parametrize("chain", ["http://{}/d.npz", "simplecache::http://{}/d.npz", "file://x::http://{}/d.npz"])
def test_nobody_connects_to_the_data_that_a_run_or_a_config_file_names(
    stopped: Path,
    listening: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chain: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = chain.format(f"127.0.0.1:{listening.getsockname()[1]}")
    _edit(stopped / "config.toml", 'data = "mnist-10k"', f"data = {json.dumps(uri)}")
    for command in (["resume", "run"], ["train", "--workers", "0", "--config", "run/config.toml"]):
        assert main(command) == 2
        assert f"data is '{uri}', but a file does not decide where to connect to" in capsys.readouterr().err
    assert main(["resume", "run", "--data", "mnist-10k", "--quiet"]) == 0

    from safetensors import safe_open
    from safetensors.numpy import save_file

    model = stopped / "model.safetensors"
    with safe_open(model, framework="numpy") as file:
        header = {**file.metadata(), "data": uri}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, model, metadata=header)
    assert main(["evaluate", "run"]) == 2
    assert f"data is '{uri}', but a file does not decide" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "mnist-10k"]) == 0


def test_data_at_a_uri_of_this_disk_need_not_be_given_again(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    dataset = distnum.load_data()
    import numpy as np

    arrays = {name: getattr(dataset, name)[:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    options: dict[str, Any] = {**SMALL, "steps": 4, "workers": 0, "data": (tmp_path / "digits.npz").as_uri()}
    distnum.train(**options, out=tmp_path / "run", on_step=lambda step, row: step.step == 2)
    assert distnum.train(out=tmp_path / "run", resume=True).completed
