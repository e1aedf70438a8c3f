"""A trained network is read from its file bit for bit, or refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import distnum
from distnum import Dataset, InputError, Network, TrainResult
from distnum.networks.model import Model, load_model
from distnum.storage.local_folder import LocalFolder
from distnum.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("trained") / "run"
    return distnum.train(workers=0, steps=3, hidden=(4,), out=out)


@pytest.fixture(scope="module")
def model(result: TrainResult) -> Model:
    assert result.folder is not None
    return load_model(RunFolder.look(result.folder))


def untrained(sizes: tuple[int, ...], example_shape: tuple[int, ...]) -> Model:
    network = Network(sizes)
    return Model(network, network.initial_params(), example_shape, True, "arrays")


def test_a_model_comes_back_bit_for_bit(result: TrainResult, model: Model) -> None:
    assert model.params.dtype == np.float64
    assert model.params.tobytes() == result.params.tobytes()
    assert model.network.sizes == (784, 4, 10)
    assert (model.network.activation.name, model.network.loss_function.name) == ("relu", "cross_entropy")
    assert (model.example_shape, model.pixels, model.data) == ((28, 28), True, "mnist-10k")


def test_a_float32_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8.0).reshape(4, 2).repeat(2, axis=0)
    trained = distnum.train(
        "mean_squared_error",
        data=(x, y, x, y),
        workers=0,
        steps=1,
        batch_size=4,
        hidden=(3, 2),
        activation="leaky_relu:0.25",
        dtype="float32",
        out=tmp_path / "run",
    )
    loaded = load_model(RunFolder.look(tmp_path / "run"))
    assert loaded.params.dtype == np.float32
    assert loaded.params.tobytes() == trained.params.tobytes()
    assert loaded.network.sizes == (6, 3, 2, 2)
    assert loaded.network.activation.name == "leaky_relu:0.25"
    assert (loaded.example_shape, loaded.pixels) == ((6,), False)


def test_the_file_can_be_read_without_this_package(result: TrainResult) -> None:
    from safetensors.numpy import load_file

    assert result.folder is not None
    tensors = load_file(result.folder / "model.safetensors")
    assert {name: array.shape for name, array in tensors.items()} == {
        "W1": (784, 4),
        "b1": (4,),
        "W2": (4, 10),
        "b2": (10,),
    }
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, result.named_params[name])


def test_a_model_has_the_scores_of_its_training(result: TrainResult, model: Model) -> None:
    assert result.test is not None
    assert model.evaluate(distnum.load_data()).to_dict() == result.test.to_dict()


def test_probabilities_add_up_to_one_and_give_the_predicted_labels(result: TrainResult, model: Model) -> None:
    x = distnum.load_data().x_test[:50]
    probabilities = model.probabilities(x)
    assert probabilities.shape == (50, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), result.predict(x))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((2, 5)), np.array([0, 1]), "5 inputs"),
        (np.zeros((2, 4)), np.array([0, 3]), "label 3"),
        (np.zeros((2, 4)), np.zeros((2, 2)), "real targets"),
    ],
)
def test_data_that_does_not_fit_the_network_is_refused(x: NDArray[Any], y: NDArray[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        untrained((4, 3), (4,)).evaluate(Dataset(x, y, x, y, "mine"))


def _header_replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    assert len(old) == len(new)
    return content.replace(old, new)


def _saved(metadata: dict[str, str] | None, **tensors: NDArray[Any]) -> bytes:
    from safetensors.numpy import save

    return save(tensors, metadata=metadata)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut within its length": lambda content: content[:5],
    "cut within its header": lambda content: content[:100],
    "cut within its numbers": lambda content: content[:-1],
    "a byte left over": lambda content: content + b"\0",
    "promises terabytes": lambda content: (2**42).to_bytes(8, "little") + content[8:],
    "no JSON": lambda content: _header_replaced(content, b'{"__metadata__"', b'["__metadata__"'),
    "other sizes": lambda content: _header_replaced(content, b'"784,4,10"', b'"784,5,10"'),
    "sizes that are no numbers": lambda content: _header_replaced(content, b'"784,4,10"', b'"784,4,1O"'),
    "a size of zero": lambda content: _header_replaced(content, b'"784,4,10"', b'"784,0,10"'),
    "unknown activation": lambda content: _header_replaced(content, b'"relu"', b'"rely"'),
    "unknown loss": lambda content: _header_replaced(content, b'"cross_entropy"', b'"cross-entropy"'),
    "another format": lambda content: _header_replaced(content, b"distnum-model-1", b"distnum-model-9"),
    "no such array": lambda content: _header_replaced(content, b'"b2"', b'"b3"'),
    "no sizes": lambda content: _header_replaced(content, b'"sizes"', b'"sises"'),
    "tensors alone": lambda content: _saved(None, W1=np.zeros((784, 10)), b1=np.zeros(10)),
    "parameters of a function": lambda content: _saved({"format": "distnum-params-1"}, params=np.zeros(3)),
    "a pickle": lambda content: pickle.dumps([1, 2, 3]),
}


def _load_changed(result: TrainResult, tmp_path: Path, change: Callable[[bytes], bytes]) -> Model:
    assert result.folder is not None
    run = RunFolder(LocalFolder(tmp_path))
    run.model_file.write_bytes(change((result.folder / "model.safetensors").read_bytes()))
    return load_model(run)


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_model_is_refused_with_a_message_that_names_it(
    result: TrainResult, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(InputError) as caught:
        _load_changed(result, tmp_path, change)
    message = str(caught.value)
    assert "model.safetensors" in message or message.startswith(("parameter ", "sizes ", "activation ", "loss "))


@pytest.mark.parametrize("position", [-1, -3000, -20_000])
def test_a_flipped_bit_in_the_weights_is_detected(result: TrainResult, tmp_path: Path, position: int) -> None:
    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        return bytes(damaged)

    with pytest.raises(InputError, match=r"model\.safetensors"):
        _load_changed(result, tmp_path, flip)


def test_an_example_shape_that_does_not_fit_the_network_is_refused(result: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors"):
        _load_changed(result, tmp_path, lambda content: _header_replaced(content, b'"28,28"', b'"28,29"'))


def test_the_refusal_of_a_run_without_a_model_says_how_to_finish_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.close()
    with pytest.raises(InputError, match=f"distnum resume {run.path}"):
        load_model(run)


def test_outputs_that_overflow_are_refused(model: Model) -> None:
    with pytest.raises(InputError, match="so large that the network's outputs are not finite"):
        model.predict(np.array([[1e308], [-1e308]]) * np.ones(784))
