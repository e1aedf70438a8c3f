"""Bad input on the command line: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distnum.cli import main

QUICK = ["--workers", "0", "--steps", "2", "--hidden", "3"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Path:
    """A folder with a run and things that can be named wrongly, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "done").symlink_to(tiny_run)
    (tmp_path / "file").write_text("no data here")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    (tmp_path / "type.toml").write_text('steps = "many"')
    (tmp_path / "unknown.toml").write_text("learning_rat = 1")
    (tmp_path / "table.toml").write_text("[steps]\nn = 3")
    np.savez(tmp_path / "partial.npz", x_train=np.zeros((3, 4)), y_train=np.zeros(3, int))
    x, y = np.zeros((3, 4)), np.array([0, 1, 0])
    np.savez(tmp_path / "nan.npz", x_train=x + np.nan, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "lengths.npz", x_train=x, y_train=y[:2], x_test=x, y_test=y)
    np.savez(tmp_path / "labels.npz", x_train=x, y_train=y - 5, x_test=x, y_test=y)
    np.save(tmp_path / "shape.npy", np.zeros((2, 5)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.toml").write_text("steps = 5")
    (tmp_path / "broken" / "metrics.jsonl").write_text("")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    (tmp_path / "broken" / "checkpoints").mkdir()
    (tmp_path / "broken" / "checkpoints" / "step-00000004.safetensors").write_bytes(b"torn")
    return tmp_path


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "done"
    assert main(["train", *QUICK, "--quiet", "--out", str(out)]) == 0
    return out


CASES: list[tuple[list[str], list[str]]] = [
    ([], ["COMMAND", "--help"]),
    (["trian"], ["trian", "train"]),
    (["train", "--learning-rat", "1"], ["--learning-rat"]),
    (["train", "--steps"], ["--steps"]),
    (["train", "--steps", "0"], ["steps is '0'", "at least 1"]),
    (["train", "--steps", "-5"], ["steps is '-5'", "at least 1"]),
    (["train", "--steps", "1.5"], ["steps is '1.5'", "whole number"]),
    (["train", "--batch-size", "0"], ["batch_size is '0'", "at least 1"]),
    (["train", *QUICK, "--batch-size", "9000"], ["batch_size is 9,000", "8,000"]),
    (["train", "--learning-rate", "nan"], ["learning_rate is 'nan'", "finite number above 0"]),
    (["train", "--learning-rate", "0"], ["learning_rate is '0'", "above 0"]),
    (["train", "--h=-1e-4"], ["h is '-1e-4'", "'auto' or a finite number above 0"]),
    (["train", "--h", "small"], ["h is 'small'", "'auto'"]),
    (["train", "--hidden", "50,x"], ["hidden is '50,x'", "separated by commas"]),
    (["train", "--hidden", "1000000,1000000"], ["hidden is 1000000,1000000", "GiB"]),
    (["train", "--hidden", "0"], ["hidden is '0'", "at least 1"]),
    (["train", "--activation", "rely"], ["activation is 'rely'", "relu"]),
    (["train", "--activation", "quantize:1"], ["activation is 'quantize:1'", "from 2"]),
    (["train", "--loss", "hinge"], ["loss is 'hinge'", "cross_entropy, mean_squared_error"]),
    (["train", "--optimizer", "lion"], ["optimizer is 'lion'", "sgd, momentum, nesterov, adam"]),
    (["train", "--scheme", "middle"], ["scheme is 'middle'", "central4"]),
    (["train", "--method", "magic"], ["method is 'magic'", "propagate, naive"]),
    (["train", "--dtype", "float16"], ["dtype is 'float16'", "float64, float32"]),
    (["train", "--init-std", "0"], ["init_std is '0'", "above 0"]),
    (["train", "--momentum", "2"], ["momentum is '2'", "at most 1"]),
    (["train", "--seed", "-1"], ["seed is '-1'", "at least 0"]),
    (["train", "--workers", "-2"], ["workers is '-2'", "'auto' or a whole number of at least 0"]),
    (["train", "--workers", "many"], ["workers is 'many'", "'auto'"]),
    (["train", *QUICK, "--workers", "100000"], ["workers is 100,000", "free memory has room for about"]),
    (["train", "--threads-per-worker", "0"], ["threads_per_worker is '0'", "at least 1"]),
    (["train", *QUICK, "--address", "h:1"], ["address is 'h:1'", "workers is 0"]),
    (["train", "--address", "nowhere"], ["address is 'nowhere'", "HOST:PORT"]),
    (["train", "--address", "127.0.0.1:99999"], ["address is '127.0.0.1:99999'", "HOST:PORT"]),
    (["train", "--address", "127.0.0.1:1"], ["address is '127.0.0.1:1'", "refused", "HOST:PORT"]),
    (["train", *QUICK, "--method", "naive", "--threads-per-worker", "2"], ["threads_per_worker is 2", "more workers"]),
    (["train", "--data", "missing"], ["data is 'missing'", "not found", "mnist-10k"]),
    (["train", "--data", ""], ["data is ''", "not empty"]),
    (["train", "--data", "empty"], ["train-images-idx3-ubyte", "four files"]),
    (["train", "--data", "file"], ["file cannot be read as an .npz"]),
    (["train", "--data", "partial.npz"], ["x_test, y_test", "partial.npz"]),
    (["train", "--data", "nan.npz"], ["x_train", "not finite", "row 0"]),
    (["train", "--data", "lengths.npz"], ["x_train has 3 rows", "y_train has 2"]),
    (["train", "--data", "labels.npz"], ["y_train holds the label -5", "from 0"]),
    (["train", *QUICK, "--out", "full"], ["out is 'full'", "not an empty folder"]),
    (["train", *QUICK, "--out", "done"], ["out is 'done'", "distnum resume done"]),
    (["train", *QUICK, "--out", "file"], ["out is 'file'", "not an empty folder"]),
    (["train", *QUICK, "--out", "file/run"], ["out is 'file/run'", "no run can be kept"]),
    (["train", *QUICK, "--out", ""], ["out is ''"]),
    (["train", "--config", "missing.toml"], ["config is 'missing.toml'", "not found"]),
    (["train", "--config", "bad.toml"], ["config is 'bad.toml'", "not valid TOML"]),
    (["train", "--config", "type.toml"], ["type.toml", "steps is 'many'", "whole number"]),
    (["train", "--config", "unknown.toml"], ["unknown.toml", "'learning_rat'", "'learning_rate'"]),
    (["train", "--config", "table.toml"], ["table.toml", "steps is {'n': 3}"]),
    (["resume", "missing"], ["run 'missing'", "not found"]),
    (["resume", "empty"], ["run 'empty'", "no config.toml"]),
    (["resume", "file"], ["run 'file'", "not a folder"]),
    (["resume", "broken"], ["step-00000004.safetensors", "cut short"]),
    (["evaluate", "missing"], ["run 'missing'", "not found"]),
    (["evaluate", "broken"], ["model.safetensors", "cannot be read"]),
    (["evaluate", "done", "--data", "small.npz"], ["4 inputs", "784"]),
    (["predict", "done", "missing.png"], ["file is 'missing.png'", "not found"]),
    (["predict", "done", "file"], ["file cannot be read as a picture"]),
    (["predict", "done", "empty"], ["file is 'empty'", "not a file"]),
    (["predict", "done", "shape.npy"], ["shape.npy has shape (2, 5)", "(n, 784)"]),
    (["predict", "done"], ["FILE"]),
    (["plot", "broken"], ["model.safetensors", "cannot be read"]),
    (["plot", "done", "--out", "missing"], ["out is 'missing'", "not a folder"]),
]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=lambda case: " ".join(case)[:60])
def test_bad_input(
    place: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    before = tree(place), tree(tiny_run)
    assert main(arguments) == 2
    out, told = capsys.readouterr()
    assert out == ""
    complaints = [line for line in told.splitlines() if line.startswith("distnum: ")]
    assert complaints == told.splitlines()[-1:]
    for word in words:
        assert word in complaints[0]
    after = tree(place), tree(tiny_run)
    made = {name for name in after[0] if name not in before[0]} - {str(place / "broken" / ".lock")}
    assert not made
    assert {name: after[0][name] for name in before[0]} == before[0]
    assert before[1] == after[1]


def test_a_diverging_run_fails_with_one_line_and_keeps_what_it_had(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--steps", "50", "--learning-rate", "1e200", "--out", "run"]) == 1
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("distnum: The ")
    assert "smaller learning rate than 1e+200" in complaint
    assert json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
