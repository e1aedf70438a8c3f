"""What must be present and unchanged when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import distnum
from distnum import InputError
from distnum.training.subject import FunctionSubject


def stopped_on_arrays(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A run on an .npz, stopped after step 4 of 8, and the arrays."""
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.random((40, 6)), "y_train": np.arange(40) % 3}
    arrays |= {"x_test": rng.random((10, 6)), "y_test": np.arange(10) % 3}
    np.savez(tmp_path / "data.npz", **arrays)
    options: dict[str, Any] = {"hidden": 3, "steps": 8, "batch_size": 5, "workers": 0, "checkpoint_every": 1}
    distnum.train(
        data=str(tmp_path / "data.npz"), out=tmp_path / "run", on_step=lambda step, row: step.step == 4, **options
    )
    return tmp_path / "run", arrays


def test_changed_data_are_refused(tmp_path: Path) -> None:
    out, arrays = stopped_on_arrays(tmp_path)
    arrays["x_train"][17, 3] += 1e-9
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=r"data \S+data\.npz is not what it was: .* step 4 \(checksum \w{12}"):
        distnum.train(out=out, resume=True)


def test_data_may_be_moved(tmp_path: Path) -> None:
    out, _ = stopped_on_arrays(tmp_path)
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    config = (out / "config.toml").read_text()
    (out / "config.toml").write_text(config.replace("data.npz", "moved.npz"))
    assert distnum.train(out=out, resume=True).completed


def test_changed_arrays_of_a_function_are_refused(tmp_path: Path) -> None:
    def loss(params: Any, batch: Any) -> float:
        return float(np.mean((batch - params) ** 2))

    options: dict[str, Any] = {"batch_size": 2, "steps": 4, "workers": 0, "out": tmp_path / "run"}
    distnum.train(loss, np.zeros(3), data=np.ones((5, 3)), on_step=lambda step, row: step.step == 2, **options)
    options |= {"resume": True}
    with pytest.raises(InputError, match="is not what it was"):
        distnum.train(loss, np.zeros(3), data=np.zeros((5, 3)), **options)
    assert distnum.train(loss, np.zeros(3), data=np.ones((5, 3)), **options).completed


def _fit(params: Any, batch: Any) -> float:
    layer = params["layers"][0]
    return float(((layer["W"] - 3.0) ** 2).sum() + (layer["b"] + params[7] - 1.0) ** 2 + (params[7] - 5.0) ** 2)


def _nested(first: str = "W") -> dict[Any, Any]:
    """Parameters in which no two leaves may be mistaken for each other, with their keys in one of two orders."""
    layer = {"W": np.array([[1.0, 2.0], [4.0, 8.0]], order="F"), "b": 0.5}
    if first == "b":
        return {7: 2, "layers": [{"b": 0.5, "W": layer["W"]}]}
    return {"layers": [layer], 7: 2}


def test_nested_parameters_are_trained_kept_by_name_and_resumed_with_keys_in_any_order(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 6, "workers": 0, "checkpoint_every": 2}
    whole = distnum.train(_fit, _nested(), **options)
    distnum.train(_fit, _nested(), out=tmp_path / "run", on_step=lambda step, row: step.step == 3, **options)
    result = distnum.train(_fit, _nested("b"), out=tmp_path / "run", resume=True, **options)
    assert result.params_sha256 == whole.params_sha256
    assert result.params["layers"][0]["W"].tolist() == whole.params["layers"][0]["W"].tolist()
    assert result.params[7] == whole.params[7]
    assert type(result.params[7]) is float
    assert result.params[7] != 2  # numbers are moved too, though they are no views
    assert result.params["layers"][0]["b"] != 0.5
    assert list(result.named_params) == ["layers[0].W", "layers[0].b", "params[7]"]
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert {name: array.shape for name, array in model.items()} == {
        "layers[0].W": (2, 2),
        "layers[0].b": (),
        "params[7]": (),
    }


def test_runs_that_did_not_keep_the_names_of_their_parameters_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"steps": 4, "workers": 0, "out": tmp_path / "run"}
    with monkeypatch.context() as before:
        before.setattr(FunctionSubject, "identity", lambda self: {})
        distnum.train(_fit, _nested(), on_step=lambda step, row: step.step == 2, **options)
    assert distnum.train(_fit, _nested(), resume=True, **options).completed


def test_parameters_of_other_names_or_shapes_are_refused(tmp_path: Path) -> None:
    def loss(params: Any, batch: Any) -> float:
        return float(sum((array**2).sum() for array in params.values()))

    options: dict[str, Any] = {"steps": 4, "workers": 0, "out": tmp_path / "run"}
    params = {"a": np.ones(3), "b": np.ones(2)}
    distnum.train(loss, params, on_step=lambda step, row: step.step == 2, **options)
    for other in ({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(3), "c": np.ones(2)}):
        with pytest.raises(
            InputError, match=r"params is \['a .* was trained with \['a \(3,\)', 'b \(2,\)'\] up to step 2"
        ):
            distnum.train(loss, other, resume=True, **options)
    assert distnum.train(loss, params, resume=True, **options).completed


def test_a_run_without_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    out, _ = stopped_on_arrays(tmp_path)
    before = (out / "metrics.jsonl").read_bytes()
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has done 4 steps, but no checkpoint is left"):
        distnum.train(out=out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_nothing_is_written_before_the_workers_have_started(tmp_path: Path) -> None:
    out, _ = stopped_on_arrays(tmp_path)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "torn')
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="no Ray cluster can be reached"):
        distnum.train(out=out, resume=True, steps=20, workers=1, address="127.0.0.1:1")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_run_of_a_cluster_can_be_continued_without_ray(tmp_path: Path) -> None:
    out, _ = stopped_on_arrays(tmp_path)
    config = (out / "config.toml").read_text().replace("workers = 0", 'workers = 2\naddress = "gone:1"')
    (out / "config.toml").write_text(config)
    assert distnum.train(out=out, resume=True, workers=0).completed


def test_a_run_cannot_be_resumed_with_another_learning_rate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(hidden=8, steps=12, batch_size=20, workers=0, out=out, on_step=lambda step, row: step.step == 7)
    with pytest.raises(InputError, match=r"learning_rate is 0\.2, but .* was trained with 0\.1"):
        distnum.train(out=out, resume=True, learning_rate=0.2)
