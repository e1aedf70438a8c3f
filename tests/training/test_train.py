"""Training in this process: the main job, its records, its result, and stopping and going on."""

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


def test_the_articles_own_run() -> None:
    """Two thirds of the test digits after 100 steps (0.6655 by backpropagation from one seed)."""
    result = distnum.train(steps=100, init_std=0.01, learning_rate=0.1, workers=0)
    assert result.test_accuracy is not None
    assert 0.60 < result.test_accuracy < 0.75


def test_the_article_loop_as_its_readers_paste_it() -> None:
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


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    one, several = distnum.train(**SMALL), distnum.train(**SMALL, threads_per_worker=threads)
    assert one.params_sha256 == several.params_sha256


def test_a_run_folder_holds_it_all(tmp_path: Path) -> None:
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
    told = json.loads((out / "result.json").read_text())
    assert told["params_sha256"] == result.params_sha256
    assert told["test_accuracy"] == rows[-1]["test_accuracy"]
    assert np.sum(told["test"]["confusion_matrix"]) == 2000
    assert {"seconds", "versions", "machine", "config"} <= told.keys()
    tensors = load_file(out / "model.safetensors")
    np.testing.assert_array_equal(tensors["W1"], result.named_params["W1"])

    again = distnum.train(config=distnum.Config(**_config(out)))
    assert again.params_sha256 == result.params_sha256


def _config(out: Path) -> dict[str, Any]:
    return RunFolder.look(out).config_values()


@pytest.mark.parametrize("stop_at", [1, 4, 7, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stopped_and_resumed_gives_the_same_bits(tmp_path: Path, stop_at: int, optimizer: str) -> None:
    options: dict[str, Any] = {**SMALL, "optimizer": optimizer, "schedule": "cosine"}
    undisturbed = distnum.train(**options)
    out = tmp_path / "run"
    stopped = distnum.train(**options, out=out, on_step=lambda step, row: step.step == stop_at)
    assert not stopped.completed
    assert not (out / "result.json").exists()
    resumed = distnum.train(out=out, resume=True)
    assert resumed.completed
    assert resumed.params_sha256 == undisturbed.params_sha256
    assert [row["step"] for row in resumed.metrics] == list(range(1, 13))
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in undisturbed.metrics]


def test_interrupted_in_the_middle_of_a_step_saves_the_last_whole_one(tmp_path: Path) -> None:
    def interrupt(step: Any, row: Any) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        distnum.train(**SMALL, out=out, on_step=interrupt)
    resumed = distnum.train(out=out, resume=True)
    assert resumed.params_sha256 == distnum.train(**SMALL).params_sha256


def test_a_torn_checkpoint_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    distnum.train(**SMALL, out=out, checkpoint_every=3, on_step=lambda step, row: step.step == 7)
    newest = out / "checkpoints" / "step-00000007.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    resumed = distnum.train(out=out, resume=True)
    assert "step-00000007.safetensors is skipped" in caplog.text
    assert resumed.params_sha256 == distnum.train(**SMALL).params_sha256


def test_a_run_cannot_be_resumed_with_another_learning_rate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**SMALL, out=out, on_step=lambda step, row: step.step == 7)
    with pytest.raises(InputError, match=r"learning_rate is 0\.2, but .* was trained with 0\.1"):
        distnum.train(out=out, resume=True, learning_rate=0.2)


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**{**SMALL, "steps": 5}, out=out)
    longer = distnum.train(out=out, resume=True, steps=12)
    assert longer.params_sha256 == distnum.train(**SMALL).params_sha256


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
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
    result = distnum.train(
        "mean_squared_error", data=data, hidden=(6,), activation="tanh", steps=400, batch_size=30, workers=0
    )
    assert result.test is not None
    assert result.test.accuracy is None
    assert result.test.loss < 0.05
    with pytest.raises(InputError, match="loss is 'cross_entropy', but the targets"):
        distnum.train(data=data, batch_size=30, workers=0)


def test_a_run_made_longer_remembers_how_far_to_go(tmp_path: Path) -> None:
    out = tmp_path / "run"
    distnum.train(**{**SMALL, "steps": 5}, out=out)
    assert RunFolder.look(out).result(5) is not None
    distnum.train(out=out, resume=True, steps=12, on_step=lambda step, row: step.step == 8)
    assert RunFolder.look(out).result(12) is None
    assert distnum.train(out=out, resume=True).params_sha256 == distnum.train(**SMALL).params_sha256


def test_compiled_code_that_cannot_be_kept_is_compiled_anew() -> None:
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


# --- what must be there, and the same, when a run is continued ------------------------------


def _stopped_on_arrays(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
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


def test_data_that_have_changed_are_refused(tmp_path: Path) -> None:
    out, arrays = _stopped_on_arrays(tmp_path)
    arrays["x_train"][17, 3] += 1e-9
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=r"data \S+data\.npz is not what it was: .* step 4 \(checksum \w{12}"):
        distnum.train(out=out, resume=True)


def test_data_may_be_elsewhere(tmp_path: Path) -> None:
    out, _ = _stopped_on_arrays(tmp_path)
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    config = (out / "config.toml").read_text()
    (out / "config.toml").write_text(config.replace("data.npz", "moved.npz"))
    assert distnum.train(out=out, resume=True).completed


def test_arrays_of_a_function_that_have_changed_are_refused(tmp_path: Path) -> None:
    def loss(params: Any, batch: Any) -> float:
        return float(np.mean((batch - params) ** 2))

    options: dict[str, Any] = {"batch_size": 2, "steps": 4, "workers": 0, "out": tmp_path / "run"}
    distnum.train(loss, np.zeros(3), data=np.ones((5, 3)), on_step=lambda step, row: step.step == 2, **options)
    options |= {"resume": True}
    with pytest.raises(InputError, match="is not what it was"):
        distnum.train(loss, np.zeros(3), data=np.zeros((5, 3)), **options)
    assert distnum.train(loss, np.zeros(3), data=np.ones((5, 3)), **options).completed


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew_in_silence(tmp_path: Path) -> None:
    out, _ = _stopped_on_arrays(tmp_path)
    before = (out / "metrics.jsonl").read_bytes()
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has done 4 steps, but no checkpoint is left"):
        distnum.train(out=out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_rows_are_not_touched_before_the_workers_are_there(tmp_path: Path) -> None:
    out, _ = _stopped_on_arrays(tmp_path)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "torn')
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="no Ray cluster can be reached"):
        distnum.train(out=out, resume=True, steps=20, workers=1, address="127.0.0.1:1")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_run_of_a_cluster_can_be_continued_without_ray(tmp_path: Path) -> None:
    out, _ = _stopped_on_arrays(tmp_path)
    config = (out / "config.toml").read_text().replace("workers = 0", 'workers = 2\naddress = "gone:1"')
    (out / "config.toml").write_text(config)
    assert distnum.train(out=out, resume=True, workers=0).completed


def test_a_gradient_that_is_not_finite_before_any_update_is_not_blamed_on_the_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"in step 1\. Try a smaller h, smaller weights") as caught:
        distnum.train(**SMALL, init_std=1e300)
    assert "learning rate" not in str(caught.value)


# --- activations of the user's ----------------------------------------------------------------


def _wave(a: float) -> float:
    return a + 0.5 * np.sin(3 * a)


def test_an_activation_of_the_users_own_is_trained_kept_and_continued(tmp_path: Path) -> None:
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


# --- what is said of it -----------------------------------------------------------------------


def test_progress_shows_what_the_command_shows(capsys: pytest.CaptureFixture[str]) -> None:
    distnum.train(**SMALL, progress=True)
    said = capsys.readouterr().err
    for word in ("network   784-", "gradient  central", "workers   this process", "estimate", "step "):
        assert word in said
    distnum.train(lambda w, batch: float(w @ w), np.ones(3), steps=2, workers=0, progress=True)
    assert "function  of 3 parameters" in capsys.readouterr().err
    distnum.train(**SMALL)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("activation", ["step", "sign", "quantize:4"])
def test_a_step_too_short_for_jumps_is_remarked_on(activation: str, caplog: pytest.LogCaptureFixture) -> None:
    distnum.train(**{**SMALL, "activation": activation, "h": 0.1, "steps": 1})
    assert not caplog.records
    distnum.train(**{**SMALL, "activation": activation, "steps": 1})
    assert "a step near 0.1 sees more of the loss" in caplog.text
