"""Runs that an earlier version wrote are continued to the same parameters, and its models are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum.networks.model import Model
from distnum.storage.checkpoints import read_checkpoint

KEPT = Path(__file__).parents[1] / "storage" / "kept"

FUNCTION: dict[str, Any] = {
    "steps": 8,
    "learning_rate": 0.01,
    "optimizer": "momentum",
    "checkpoint_every": 2,
    "workers": 0,
}
NETWORK: dict[str, Any] = {
    "hidden": 3,
    "steps": 8,
    "batch_size": 20,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "checkpoint_every": 2,
    "evaluate_every": 2,
    "workers": 0,
    "threads_per_worker": 1,
}


def loss(params: Any, batch: Any) -> float:
    """A loss of Python arithmetic alone, whose bits depend on no library and no machine."""
    total = 0.0
    for k, p in enumerate(params.tolist()):
        total += (p - k) * (p - k) + 0.25 * p * p * p * p
    return total


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy of the kept runs."""
    return shutil.copytree(KEPT, tmp_path / "kept")


@pytest.fixture
def model(kept: Path) -> Model:
    return distnum.load(kept / "model-run")


def test_a_kept_run_of_a_function_is_continued_to_the_same_bits(kept: Path) -> None:
    result = distnum.train(loss, np.array([0.5, -1.0, 2.0]), out=kept / "function-run", resume=True)
    assert result.completed
    assert [row["step"] for row in result.metrics] == list(range(1, 9))
    assert result.params_sha256 == "a99f1a07d9a4079314ea0f2c528b6fc33c2df26967cdb34ec7e1cadebef79608"
    new = distnum.train(loss, np.array([0.5, -1.0, 2.0]), **FUNCTION)
    assert new.params_sha256 == result.params_sha256


def test_a_kept_run_of_a_network_is_continued_to_the_same_parameters(kept: Path, model: Model) -> None:
    result = distnum.train(out=kept / "network-run", resume=True)
    assert result.completed
    assert [row["step"] for row in result.metrics] == list(range(1, 9))
    np.testing.assert_allclose(result.params, model.params, rtol=0, atol=1e-9)


def test_a_kept_run_of_a_network_is_continued_to_the_bits_of_a_new_run(kept: Path, tmp_path: Path) -> None:
    """The bits depend on the machine, so they are compared only if its first four steps give the kept bits."""
    new = distnum.train(out=tmp_path / "new", keep_checkpoints=4, **NETWORK)
    checkpoints = [
        run / "checkpoints" / "step-00000004.safetensors" for run in (kept / "network-run", tmp_path / "new")
    ]
    before, after = (read_checkpoint(path.read_bytes())[0] for path in checkpoints)
    np.testing.assert_allclose(before.params, after.params, rtol=0, atol=1e-9)
    if before.params.tobytes() != after.params.tobytes():
        pytest.skip("another machine than that of the kept run rounds differently")
    assert distnum.train(out=kept / "network-run", resume=True).params_sha256 == new.params_sha256


def test_a_kept_model_is_loaded_and_evaluated(model: Model) -> None:
    assert model.network.sizes == (784, 3, 10)
    assert model.evaluate(distnum.load_data()).accuracy == 0.2085
