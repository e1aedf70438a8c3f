"""Training in this process: the main job, its records and its result, and training any function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import distnum
from distnum import InputError, TrainingError, TwoLayerNet
from distnum.storage.checkpoints import params_sha256
from distnum.storage.run_folder import RunFolder

SMALL: dict[str, Any] = {"hidden": (8,), "steps": 12, "batch_size": 20, "workers": 0}


def test_the_run_of_the_article() -> None:
    """Two thirds of the test digits after 100 steps (0.6655 by backpropagation from one seed)."""
    result = distnum.train(steps=100, init_std=0.01, learning_rate=0.1, workers=0)
    assert result.test_accuracy is not None
    assert 0.60 < result.test_accuracy < 0.75


def test_the_loop_of_the_article_as_readers_paste_it() -> None:
    data = distnum.load_data()
    x_train, t_train = data.x_train.reshape(-1, 784) / 255, data.y_train
    network = TwoLayerNet(input_size=784, hidden_size=50, output_size=10)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(6):
        batch_mask = rng.choice(len(x_train), 100)
        x_batch, t_batch = x_train[batch_mask], t_train[batch_mask]
        grad = network.numerical_gradient(x_batch, t_batch)
        for key in ("W1", "b1", "W2", "b2"):
            network.params[key] -= 1.0 * grad[key]
        losses.append(network.loss(x_batch, t_batch))
    assert losses[-1] < losses[0]
    assert network.accuracy(x_train[:500], t_train[:500]) > 0.15
    probabilities = network.predict(x_train[:5])
    assert probabilities.shape == (5, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_two_layer_net_methods_agree_and_take_one_hot_rows() -> None:
    network = TwoLayerNet(6, 4, 3, init_std=0.5)
    rng = np.random.default_rng(1)
    x, labels = rng.random((5, 6)), np.array([0, 2, 1, 1, 0])
    fast = network.numerical_gradient(x, labels)
    slow = network.numerical_gradient(x, np.eye(3)[labels], method="naive")
    for name in network.params:
        np.testing.assert_allclose(fast[name], slow[name], atol=1e-8)
    assert network.loss(x, labels) == network.loss(x, np.eye(3)[labels])


def test_methods_lead_to_the_same_network() -> None:
    options: dict[str, Any] = {**SMALL, "hidden": (3,), "steps": 1, "batch_size": 10}
    fast, slow = distnum.train(**options), distnum.train(**options, method="naive")
    np.testing.assert_allclose(fast.params, slow.params, atol=1e-8)


def test_steps_yields_a_record_a_step() -> None:
    records = list(distnum.steps(**SMALL))
    assert [record.step for record in records] == list(range(1, 13))
    assert records[0].loss_evaluations == 2 * records[0].params.size
    assert not records[0].params.flags.writeable
    result = distnum.train(**SMALL)
    assert params_sha256(records[-1].params) == result.params_sha256


def test_the_content_of_a_run_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = distnum.train(**SMALL, evaluate_every=5, checkpoint_every=4, keep_checkpoints=2, out=out)
    assert result.folder == out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {"loss", "learning_rate", "grad_norm", "loss_evaluations", "compute_s", "dispatch_gather_s", "update_s"} <= (
        rows[0].keys()
    )
    assert [row["step"] for row in rows if "test_accuracy" in row] == [5, 10, 12]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "step-00000008.safetensors",
        "step-00000012.safetensors",
    ]
    content = json.loads((out / "result.json").read_text())
    assert content["params_sha256"] == result.params_sha256
    assert content["test_accuracy"] == rows[-1]["test_accuracy"]
    assert np.sum(content["test"]["confusion_matrix"]) == 2000
    assert {"seconds", "versions", "machine", "config"} <= content.keys()
    tensors = load_file(out / "model.safetensors")
    np.testing.assert_array_equal(tensors["W1"], result.named_params["W1"])

    again = distnum.train(config=distnum.Config(**_config(out)))
    assert again.params_sha256 == result.params_sha256


def _config(out: Path) -> dict[str, Any]:
    return RunFolder.look(out).config_values()


def test_a_folder_that_is_not_empty_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**SMALL, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"out is .* distnum resume"):
        distnum.train(**SMALL, out=out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_loss_that_diverges_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(The loss|The partial derivative).* step \d+.*smaller learning rate"):
        distnum.train(**SMALL, learning_rate=1e300, out=tmp_path / "run")


# --- any Python function ----------------------------------------------------------------


def quadratic(params: np.ndarray, batch: Any) -> float:
    return float(((params - np.arange(4.0)) ** 2).sum())


def test_a_function_of_an_array() -> None:
    result = distnum.train(quadratic, np.zeros(4), steps=60, learning_rate=0.2, workers=0)
    np.testing.assert_allclose(result.params, np.arange(4.0), atol=1e-6)
    assert result.test is None
    assert result.loss < 1e-12


def test_a_function_of_a_dict_with_batches_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.25

    def loss(params: dict[str, np.ndarray], batch: tuple[np.ndarray, np.ndarray]) -> float:
        x, y = batch
        assert x.shape == (32, 3)
        return float(((x @ params["w"] + params["b"] - y) ** 2).mean())

    begin = {"w": np.zeros(3), "b": np.zeros(())}
    options: dict[str, Any] = {"data": (x, y), "steps": 200, "batch_size": 32, "workers": 0}
    result = distnum.train(loss, begin, **options)
    np.testing.assert_allclose(result.params["w"], [1, -2, 0.5], atol=1e-3)
    assert float(result.params["b"]) == pytest.approx(0.25, abs=1e-3)
    assert not begin["w"].any()

    out = tmp_path / "run"
    distnum.train(loss, begin, **options, out=out, on_step=lambda step, row: step.step == 90)
    resumed = distnum.train(loss, begin, **options, out=out, resume=True)
    assert resumed.params_sha256 == result.params_sha256
    with pytest.raises(InputError, match="trains a Python function"):
        distnum.train(out=out, resume=True)


def test_a_function_from_the_step_to_its_batch() -> None:
    seen = set()

    def loss(params: np.ndarray, batch: int) -> float:
        seen.add(batch)
        return float((params**2).sum())

    distnum.train(loss, np.ones(2), data=lambda step: step * 10, steps=3, workers=0)
    assert {10, 20, 30} <= seen


def test_a_function_runs_on_one_thread_a_worker() -> None:
    with pytest.raises(InputError, match="threads_per_worker is 2"):
        distnum.train(quadratic, np.zeros(4), workers=0, threads_per_worker=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 9000}, "batch_size is 9,000, but mnist-10k has 8,000"),
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"data": (np.zeros((3, 2)),) * 3}, "data is a tuple of 3"),
        ({"params": np.zeros(3)}, "params is given without a loss function"),
        ({"resume": True}, "resume is True, but out is not given"),
        ({"loss": quadratic}, "params is missing"),
        ({"workers": 0, "address": "auto"}, "address is 'auto', but workers is 0"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distnum.train(**arguments)


def test_arrays_and_real_targets() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((90, 5))
    y = np.stack([x.sum(axis=1), x[:, 0] - x[:, 1]], axis=1)
    data = (x[:60], y[:60], x[60:], y[60:])
    result = distnum.train("mean_squared_error", data=data, hidden=(6,), steps=400, batch_size=30, workers=0)
    assert result.test is not None
    assert result.test.accuracy is None
    assert result.test.loss < 0.05
    with pytest.raises(InputError, match="loss is 'cross_entropy', but the targets"):
        distnum.train(data=data, batch_size=30, workers=0)


@pytest.mark.slow
def test_compiled_code_that_cannot_be_read_is_compiled_anew() -> None:
    from distnum.networks.propagation import kernels

    calls = []

    def broken(*arguments: Any) -> None:
        calls.append(1)
        raise EOFError("Ran out of input")

    kernels.straight_kernel.cache_clear()
    undisturbed = distnum.train(**SMALL)
    for length in ((3, 2), (5, 3), (9, 8)):
        for compact in (False, True):
            kernels.straight_kernel(*length, compact)._compiled = broken
    assert distnum.train(**SMALL).params_sha256 == undisturbed.params_sha256
    assert calls


def test_a_gradient_that_is_not_finite_before_any_update_is_not_blamed_on_the_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"in step 1\. Try a smaller h, smaller weights") as caught:
        distnum.train(**SMALL, init_std=1e300)
    assert "learning rate" not in str(caught.value)


# --- custom activations -----------------------------------------------------------------------


def _wave(a: float) -> float:
    return a + 0.5 * np.sin(3 * a)


def test_a_run_with_a_custom_activation_is_resumed_and_loaded(tmp_path: Path) -> None:
    scalar = distnum.Activation.from_scalar_function(_wave)
    vectorised = distnum.Activation.from_function(lambda a: a + 0.5 * np.sin(3 * a), "wave")
    out = tmp_path / "run"
    options: dict[str, Any] = {**SMALL, "activation": scalar}
    undisturbed = distnum.train(**options)
    other = distnum.train(**{**SMALL, "activation": vectorised})
    np.testing.assert_allclose(undisturbed.params, other.params, rtol=1e-6, atol=1e-9)
    distnum.train(**options, out=out, on_step=lambda step, row: step.step == 4)
    with pytest.raises(InputError, match=r"activation is 'custom:_wave', a function of the user's; only Python can"):
        distnum.train(out=out, resume=True)
    resumed = distnum.train(out=out, resume=True, activation=scalar)
    assert resumed.params_sha256 == undisturbed.params_sha256
    with pytest.raises(InputError, match="only Python can pass it"):
        distnum.load(out)
    with pytest.raises(InputError, match=r"activation is tanh, but .* was trained with custom:_wave"):
        distnum.load(out, activation=distnum.Network((2, 2), "tanh").activation)
    x = distnum.load_data().x_test[:50]
    np.testing.assert_array_equal(distnum.load(out, activation=scalar).predict(x), undisturbed.predict(x))


# --- remarks ----------------------------------------------------------------------------------


def test_progress_shows_what_the_command_shows(capsys: pytest.CaptureFixture[str]) -> None:
    distnum.train(**SMALL, progress=True)
    printed = capsys.readouterr().err
    for word in ("network   784-", "gradient  central", "workers   this process", "estimate", "step "):
        assert word in printed
    distnum.train(lambda w, batch: float(w @ w), np.ones(3), steps=2, workers=0, progress=True)
    assert "function  of 3 parameters" in capsys.readouterr().err
    distnum.train(**SMALL)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "activation", ["step", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sign", "quantize:4"))]
)
def test_a_difference_step_too_small_for_jumps_is_remarked_on(
    activation: str, caplog: pytest.LogCaptureFixture
) -> None:
    distnum.train(**{**SMALL, "activation": activation, "h": 0.1, "steps": 1})
    assert not caplog.records
    distnum.train(**{**SMALL, "activation": activation, "steps": 1})
    assert "a step near 0.1 sees more of the loss" in caplog.text
