"""A trained network as a file, and pictures and arrays as its input."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import distnum
from distnum import Dataset, InputError, Network, TrainResult
from distnum.datasets.images import read_images
from distnum.networks.model import Model, load_model
from distnum.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("trained") / "run"
    return distnum.train(workers=0, steps=3, hidden=(4,), out=out)


@pytest.fixture(scope="module")
def model(result: TrainResult) -> Model:
    assert result.folder is not None
    return load_model(RunFolder.look(result.folder))


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    return np.asarray(distnum.load_data().x_test[:3])


def untrained(sizes: tuple[int, ...], example_shape: tuple[int, ...], pixels: bool = True) -> Model:
    network = Network(sizes)
    return Model(network, network.initial_params(), example_shape, pixels, "arrays")


# --- the file -----------------------------------------------------------------------


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
    found = load_model(RunFolder.look(tmp_path / "run"))
    assert found.params.dtype == np.float32
    assert found.params.tobytes() == trained.params.tobytes()
    assert found.network.sizes == (6, 3, 2, 2)
    assert found.network.activation.name == "leaky_relu:0.25"
    assert (found.example_shape, found.pixels) == ((6,), False)


def test_the_file_is_read_without_this_package(result: TrainResult) -> None:
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


def test_a_model_evaluates_like_the_training_did(result: TrainResult, model: Model) -> None:
    assert result.test is not None
    assert model.evaluate(distnum.load_data()).to_dict() == result.test.to_dict()


def test_probabilities_are_those_of_the_labels(result: TrainResult, model: Model) -> None:
    x = distnum.load_data().x_test[:50]
    found = model.probabilities(x)
    assert found.shape == (50, 10)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found.argmax(axis=1), result.predict(x))


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
    run = RunFolder(tmp_path)
    run.model_file.write_bytes(change((result.folder / "model.safetensors").read_bytes()))
    return load_model(run)


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_model_is_refused_by_name(
    result: TrainResult, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(InputError) as caught:
        _load_changed(result, tmp_path, change)
    message = str(caught.value)
    assert "model.safetensors" in message or message.startswith(("parameter ", "sizes ", "activation ", "loss "))


@pytest.mark.parametrize("position", [-1, -3000, -20_000])
def test_a_flipped_bit_in_the_weights_is_found(result: TrainResult, tmp_path: Path, position: int) -> None:
    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        return bytes(damaged)

    with pytest.raises(InputError, match=r"model\.safetensors"):
        _load_changed(result, tmp_path, flip)


def test_an_example_shape_that_does_not_fit_the_network_is_refused(result: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors"):
        _load_changed(result, tmp_path, lambda content: _header_replaced(content, b'"28,28"', b'"28,29"'))


def test_a_run_without_a_model_is_refused_with_how_to_finish_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.close()
    with pytest.raises(InputError, match=f"distnum resume {run.path}"):
        load_model(run)


# --- pictures -----------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path, model: Model, digits: NDArray[np.uint8]) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    x, remarks = read_images(tmp_path / "digit.png", model)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x, digits[0].reshape(1, 784))
    assert remarks == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_a_grey_picture_is_the_same_in_other_modes(
    tmp_path: Path, model: Model, digits: NDArray[np.uint8], mode: str
) -> None:
    Image.fromarray(digits[0]).convert(mode).save(tmp_path / "digit.png")
    np.testing.assert_array_equal(read_images(tmp_path / "digit.png", model)[0], digits[0].reshape(1, 784))


def test_colours_become_shades_of_grey(tmp_path: Path, model: Model) -> None:
    Image.new("RGB", (28, 28), (0, 255, 0)).save(tmp_path / "green.png")
    x, _ = read_images(tmp_path / "green.png", model)
    assert len(np.unique(x)) == 1
    assert 100 < x[0, 0] < 200


def test_a_picture_of_16_bits_is_scaled_to_bytes(tmp_path: Path, model: Model, digits: NDArray[np.uint8]) -> None:
    Image.fromarray(digits[0].astype(np.uint16) * 257).save(tmp_path / "digit.png")
    x, _ = read_images(tmp_path / "digit.png", model)
    assert np.abs(x.astype(int) - digits[0].reshape(1, 784)).max() <= 1


@pytest.mark.parametrize("factor", [2, 10])
def test_a_picture_of_another_size_is_scaled_with_a_remark(
    tmp_path: Path, model: Model, digits: NDArray[np.uint8], factor: int
) -> None:
    Image.fromarray(digits[0].repeat(factor, axis=0).repeat(factor, axis=1)).save(tmp_path / "large.png")
    x, remarks = read_images(tmp_path / "large.png", model)
    side = 28 * factor
    assert remarks == [f"scaled from {side}x{side} to 28x28"]
    assert x.shape == (1, 784)
    assert np.abs(x.astype(float) - digits[0].reshape(1, 784)).mean() < 5


def test_a_picture_has_the_width_and_height_of_the_examples(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    x, remarks = read_images(tmp_path / "wide.png", untrained((6, 2), (2, 3)))
    assert (x.tolist(), remarks) == ([[0, 1, 2, 3, 4, 5]], [])


def test_dark_on_light_is_remarked_upon_and_inverted_on_demand(
    tmp_path: Path, model: Model, digits: NDArray[np.uint8]
) -> None:
    Image.fromarray(255 - digits[0]).save(tmp_path / "ink.png")
    x, remarks = read_images(tmp_path / "ink.png", model)
    np.testing.assert_array_equal(x, 255 - digits[0].reshape(1, 784))
    assert len(remarks) == 1
    assert "dark on light" in remarks[0]
    assert "--invert" in remarks[0]

    x, remarks = read_images(tmp_path / "ink.png", model, invert=True)
    np.testing.assert_array_equal(x, digits[0].reshape(1, 784))
    assert remarks == []


def test_dark_on_light_is_remarked_upon_in_pictures_that_are_not_square(tmp_path: Path) -> None:
    Image.new("L", (30, 20), 255).save(tmp_path / "paper.png")
    _, remarks = read_images(tmp_path / "paper.png", untrained((600, 2), (20, 30)))
    assert len(remarks) == 1


def test_a_picture_for_a_model_of_numbers_is_scaled_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8)).save(tmp_path / "p.png")
    x, _ = read_images(tmp_path / "p.png", untrained((4, 2), (2, 2), pixels=False))
    assert x.dtype == np.float64
    np.testing.assert_allclose(x, [[0, 1, 0.2, 0.4]])
    inverted, _ = read_images(tmp_path / "p.png", untrained((4, 2), (2, 2), pixels=False), invert=True)
    np.testing.assert_allclose(inverted, [[1, 0, 0.8, 0.6]])


def test_a_picture_for_a_model_of_other_examples_is_refused(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"p\.png is a picture.*\.npy"):
        read_images(tmp_path / "p.png", untrained((4, 2), (4,)))


def _png(*, size: tuple[int, int] = (28, 28)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(784, dtype=np.uint16).astype(np.uint8).reshape(28, 28)).save(file, "PNG")
    content = file.getvalue()
    header = b"IHDR" + struct.pack(">II", *size) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


BAD_PICTURES = {
    "empty": b"",
    "text": b"this is no picture",
    "cut within its header": _png()[:20],
    "cut within its pixels": _png()[:60],
    "wrong checksum": _png()[:32] + bytes([_png()[32] ^ 1]) + _png()[33:],
    "no pixels": _png(size=(0, 0)),
    "promises terabytes": _png(size=(2_000_000, 2_000_000)),
}


@pytest.mark.parametrize("content", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, model: Model, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_images(tmp_path / "bad.png", model)
    assert str(tmp_path / "bad.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_of_another_format_is_refused_by_name(tmp_path: Path, model: Model) -> None:
    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, "DDS")
    content = bytearray(file.getvalue())
    content[80:84] = bytes(4)
    (tmp_path / "bad.dds").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.dds"):
        read_images(tmp_path / "bad.dds", model)


@pytest.mark.parametrize("name", ["none.png", "none.npy", "."])
def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path, model: Model, name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_images(tmp_path / name, model)
    assert repr(str(tmp_path / name)) in str(caught.value)


# --- arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 784), (1, 28, 28), (3, 784), (3, 28, 28)])
def test_arrays_of_one_or_more_examples_are_accepted(
    tmp_path: Path, model: Model, digits: NDArray[np.uint8], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    array = digits.reshape(-1, 784)[: 3 if shape[0] == 3 else 1].reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    x, remarks = read_images(tmp_path / "x.npy", model)
    assert x.dtype == (np.uint8 if dtype is np.int64 else dtype)  # whole numbers are pixels, as in the training data
    assert x.ndim == 2
    np.testing.assert_array_equal(x, array.reshape(-1, 784))
    assert remarks == []


@pytest.mark.parametrize("wrong", [-1, 256])
def test_whole_numbers_that_are_no_pixels_are_refused(tmp_path: Path, model: Model, wrong: int) -> None:
    np.save(tmp_path / "x.npy", np.full((28, 28), wrong))
    with pytest.raises(InputError, match=rf"x\.npy holds {wrong}; pixels must be whole numbers from 0 to 255"):
        read_images(tmp_path / "x.npy", model)


@pytest.mark.parametrize("order", ["C", "F"])
def test_bytes_and_numbers_up_to_one_are_the_same_examples(
    tmp_path: Path, model: Model, digits: NDArray[np.uint8], order: Any
) -> None:
    np.save(tmp_path / "bytes.npy", np.asarray(digits, order=order))
    np.save(tmp_path / "numbers.npy", np.asarray(digits / 255, order=order))
    for invert in (False, True):
        of_bytes, of_numbers = (
            model.probabilities(read_images(tmp_path / name, model, invert)[0]) for name in ("bytes.npy", "numbers.npy")
        )
        np.testing.assert_allclose(of_bytes, of_numbers, rtol=1e-12)


def _one_bad(value: float) -> NDArray[np.float64]:
    array = np.zeros((2, 784))
    array[1, 5] = value
    return array


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((28, 27)), "(28, 27)"),
        (np.zeros((784, 3)), "(784, 3)"),
        (np.zeros((2, 1, 1, 783)), "783"),
        (np.zeros((0, 784)), "(0, 784)"),
        (np.float64(3), "()"),
        (_one_bad(np.nan), "not finite"),
        (_one_bad(np.inf), "not finite"),
        (np.zeros((28, 28), complex), "real numbers"),
        (np.zeros((28, 28), bool), "real numbers"),
        (np.full((28, 28), "a"), "real numbers"),
        (np.zeros((28, 28), [("grey", float)]), "real numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, model: Model, array: NDArray[Any], words: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError) as caught:
        read_images(tmp_path / "x.npy", model)
    assert str(tmp_path / "x.npy") in str(caught.value)
    assert words in str(caught.value)


class _Executed:
    """Pickled, it creates a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("form", ["npy", "pickle"])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, model: Model, form: str) -> None:
    created, path = tmp_path / "created", tmp_path / "x.npy"
    if form == "npy":
        np.save(path, np.array([_Executed(created)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(_Executed(created)))
    # The file would do its work if it were let.
    np.load(path, allow_pickle=True)
    assert created.exists()
    created.unlink()

    with pytest.raises(InputError, match=r"x\.npy"):
        read_images(path, model)
    assert not created.exists()


def _npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x93NUM", id="cut within its magic"),
        pytest.param(_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (28, 28), }"), id="no numbers"),
        pytest.param(_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2199023255552, 784), }"), id="terabytes"),
        pytest.param(
            _npy("{"),
            id="a header that breaks off",
        ),
    ],
)
def test_a_damaged_array_is_refused_by_name(tmp_path: Path, model: Model, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npy"):
        read_images(tmp_path / "x.npy", model)


def test_an_archive_in_place_of_an_array_is_refused(tmp_path: Path, model: Model) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, x=np.zeros((28, 28)))
    with pytest.raises(InputError, match="one array"):
        read_images(tmp_path / "x.npy", model)


@pytest.mark.parametrize("colour", [0, 255])
def test_a_drawing_on_transparent_ground_is_seen_whatever_its_colour(model: Model, tmp_path: Path, colour: int) -> None:
    drawn = np.zeros((28, 28, 4), np.uint8)
    drawn[..., :3] = colour
    drawn[5:20, 12:16, 3] = 255
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    x, _ = read_images(tmp_path / "drawn.png", model)
    pixels = x.reshape(28, 28).astype(int)
    assert abs(pixels[10, 13] - pixels[0, 0]) == 255


def test_outputs_that_overflow_are_refused(model: Model) -> None:
    with pytest.raises(InputError, match="so large that the network's outputs are not finite"):
        model.predict(np.array([[1e308], [-1e308]]) * np.ones(784))
