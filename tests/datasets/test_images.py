"""Pictures and arrays are read as examples, or refused by name."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distnum import InputError, Network, load_data
from distnum.datasets import images
from distnum.datasets.images import read_images
from distnum.networks.model import Model
from tests.datasets.helpers import Unpickled


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    return np.asarray(load_data().x_test[:3])


def read(
    path: Path, invert: bool = False, example_shape: tuple[int, ...] = (28, 28), pixels: bool = True
) -> tuple[NDArray[np.generic], list[str]]:
    return read_images(path, example_shape, pixels, np.float64, invert)


# --- pictures -----------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_not_changed(tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    x, remarks = read(tmp_path / "digit.png")
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x, digits[0].reshape(1, 784))
    assert remarks == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_a_grey_picture_is_the_same_in_other_modes(tmp_path: Path, digits: NDArray[np.uint8], mode: str) -> None:
    Image.fromarray(digits[0]).convert(mode).save(tmp_path / "digit.png")
    np.testing.assert_array_equal(read(tmp_path / "digit.png")[0], digits[0].reshape(1, 784))


def test_colours_become_shades_of_grey(tmp_path: Path) -> None:
    Image.new("RGB", (28, 28), (0, 255, 0)).save(tmp_path / "green.png")
    x, _ = read(tmp_path / "green.png")
    assert len(np.unique(x)) == 1
    assert 100 < x[0, 0] < 200


def test_a_picture_of_16_bits_is_scaled_to_bytes(tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    Image.fromarray(digits[0].astype(np.uint16) * 257).save(tmp_path / "digit.png")
    x, _ = read(tmp_path / "digit.png")
    assert np.abs(x.astype(int) - digits[0].reshape(1, 784)).max() <= 1


@pytest.mark.parametrize("factor", [2, 10])
def test_a_picture_of_another_size_is_scaled_with_a_remark(
    tmp_path: Path, digits: NDArray[np.uint8], factor: int
) -> None:
    Image.fromarray(digits[0].repeat(factor, axis=0).repeat(factor, axis=1)).save(tmp_path / "large.png")
    x, remarks = read(tmp_path / "large.png")
    side = 28 * factor
    assert remarks == [f"scaled from {side}x{side} to 28x28"]
    assert x.shape == (1, 784)
    assert np.abs(x.astype(float) - digits[0].reshape(1, 784)).mean() < 5


def test_a_picture_has_the_width_and_height_of_the_examples(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    x, remarks = read(tmp_path / "wide.png", example_shape=(2, 3))
    assert (x.tolist(), remarks) == ([[0, 1, 2, 3, 4, 5]], [])


def test_a_dark_on_light_picture_gets_a_remark_and_can_be_inverted(tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    Image.fromarray(255 - digits[0]).save(tmp_path / "ink.png")
    x, remarks = read(tmp_path / "ink.png")
    np.testing.assert_array_equal(x, 255 - digits[0].reshape(1, 784))
    assert len(remarks) == 1
    assert "dark on light" in remarks[0]
    assert "--invert" in remarks[0]

    x, remarks = read(tmp_path / "ink.png", invert=True)
    np.testing.assert_array_equal(x, digits[0].reshape(1, 784))
    assert remarks == []


def test_a_dark_on_light_picture_that_is_not_square_gets_a_remark(tmp_path: Path) -> None:
    Image.new("L", (30, 20), 255).save(tmp_path / "paper.png")
    _, remarks = read(tmp_path / "paper.png", example_shape=(20, 30))
    assert len(remarks) == 1


def test_a_picture_for_a_model_of_real_numbers_is_scaled_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8)).save(tmp_path / "p.png")
    x, _ = read(tmp_path / "p.png", example_shape=(2, 2), pixels=False)
    assert x.dtype == np.float64
    np.testing.assert_allclose(x, [[0, 1, 0.2, 0.4]])
    inverted, _ = read(tmp_path / "p.png", invert=True, example_shape=(2, 2), pixels=False)
    np.testing.assert_allclose(inverted, [[1, 0, 0.8, 0.6]])


def test_a_picture_is_refused_if_examples_are_no_pictures(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"p\.png is a picture.*\.npy"):
        read(tmp_path / "p.png", example_shape=(4,))


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
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "bad.png")
    assert str(tmp_path / "bad.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, "DDS")
    content = bytearray(file.getvalue())
    content[80:84] = bytes(4)
    (tmp_path / "bad.dds").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.dds"):
        read(tmp_path / "bad.dds")


@pytest.mark.parametrize("name", ["none.png", "none.npy", "."])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert repr(str(tmp_path / name)) in str(caught.value)


@pytest.mark.parametrize("colour", [0, 255])
def test_a_drawing_of_any_colour_contrasts_with_a_transparent_background(tmp_path: Path, colour: int) -> None:
    drawn = np.zeros((28, 28, 4), np.uint8)
    drawn[..., :3] = colour
    drawn[5:20, 12:16, 3] = 255
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    x, _ = read(tmp_path / "drawn.png")
    pixels = x.reshape(28, 28).astype(int)
    assert abs(pixels[10, 13] - pixels[0, 0]) == 255


def _png(width: int, height: int) -> bytes:
    """The header of a picture, and a line of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def _tiff(tile: int) -> bytes:
    """A picture of 28 x 28 in a tile that is larger."""
    content = zlib.compress(bytes(28 * 28))
    fields = [(256, 28), (257, 28), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    fields += [(324, 8 + 2 + 12 * 10 + 4), (325, len(content))]
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + content


@pytest.mark.parametrize(
    ("content", "n_pixels"),
    [(_png(8000, 8000), 64_000_000), (_png(1, 50_000_001), 50_000_001), (_tiff(40_000), 1_600_000_000)],
    ids=["png", "narrow png", "tiff tile"],
)
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(
    content: bytes, n_pixels: int, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(content)
    with pytest.raises(InputError, match=rf"large has {n_pixels:,} pixels; a picture may have 50,000,000\."):
        read(tmp_path / "large")


def test_a_picture_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBPVP8L")
        file.truncate(2 * 10**9)
    with pytest.raises(InputError, match=r"large\.webp has 2,000,000,000 bytes; a picture may have 500,000,000\."):
        read(tmp_path / "large.webp")


def test_a_picture_is_converted_in_pieces_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    colors = Image.fromarray(rng.integers(0, 256, (61, 47, 4), np.uint8))
    shades = Image.fromarray(rng.integers(0, 65536, (61, 47), np.uint16))
    pictures = [(colors.convert(mode), mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK")]
    for picture, name in [*pictures, (shades, "I;16")]:
        picture.save(tmp_path / f"{name}.tiff")
        whole = read(tmp_path / f"{name}.tiff")[0]
        with monkeypatch.context() as changed:
            changed.setattr(images, "_PIECE", 500)
            np.testing.assert_array_equal(read(tmp_path / f"{name}.tiff")[0], whole, err_msg=name)


MEMORY = """
import re, sys
from pathlib import Path
from PIL import Image
import numpy as np
from distnum.datasets.images import read_images
from distnum import InputError
Image.init()
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
try:
    read_images(Path(sys.argv[1]), (28, 28), True, np.float64)
except InputError:
    pass
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of memory")
@pytest.mark.parametrize(
    ("mode", "name", "side"),
    [("RGBA", "a.webp", 7070), ("CMYK", "a.jpg", 7070), ("I;16", "a.png", 7070), ("RGBA", "a.png", 13_300)],
    ids=str,
)
def test_a_picture_takes_less_than_a_gigabyte(mode: str, name: str, side: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"webp": {"lossless": True}, "jpg": {"progressive": True}, "png": {}}[name[2:]]
    Image.new(mode, (side, side)).save(tmp_path / name, **options)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / name], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 10**9


# --- arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 784), (1, 28, 28), (3, 784), (3, 28, 28)])
def test_arrays_of_one_or_more_examples_are_accepted(
    tmp_path: Path, digits: NDArray[np.uint8], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    array = digits.reshape(-1, 784)[: 3 if shape[0] == 3 else 1].reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    x, remarks = read(tmp_path / "x.npy")
    assert x.dtype == (np.uint8 if dtype is np.int64 else dtype)  # whole numbers are pixels, as in the training data
    assert x.ndim == 2
    np.testing.assert_array_equal(x, array.reshape(-1, 784))
    assert remarks == []


@pytest.mark.parametrize("wrong", [-1, 256])
def test_whole_numbers_outside_of_bytes_are_refused(tmp_path: Path, wrong: int) -> None:
    np.save(tmp_path / "x.npy", np.full((28, 28), wrong))
    with pytest.raises(InputError, match=rf"x\.npy holds {wrong}; pixels must be whole numbers from 0 to 255"):
        read(tmp_path / "x.npy")


@pytest.mark.parametrize("order", ["C", "F"])
def test_bytes_and_numbers_from_0_to_1_give_the_same_examples(
    tmp_path: Path, digits: NDArray[np.uint8], order: Any
) -> None:
    np.save(tmp_path / "bytes.npy", np.asarray(digits, order=order))
    np.save(tmp_path / "numbers.npy", np.asarray(digits / 255, order=order))
    network = Network((784, 4, 10))
    model = Model(network, network.initial_params(), (28, 28), True, "arrays")
    for invert in (False, True):
        of_bytes, of_numbers = (
            model.probabilities(read(tmp_path / name, invert)[0]) for name in ("bytes.npy", "numbers.npy")
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
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path: Path, array: NDArray[Any], words: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.npy")
    assert str(tmp_path / "x.npy") in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("form", ["npy", "pickle"])
def test_pickled_objects_are_refused_and_not_unpickled(tmp_path: Path, form: str) -> None:
    created, path = tmp_path / "created", tmp_path / "x.npy"
    if form == "npy":
        np.save(path, np.array([Unpickled(created)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Unpickled(created)))
    # Unpickling would create the file.
    np.load(path, allow_pickle=True)
    assert created.exists()
    created.unlink()

    with pytest.raises(InputError, match=r"x\.npy"):
        read(path)
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
            _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (12, 10000000000000000000000), }"), id="huge"
        ),
        pytest.param(
            _npy("{"),
            id="a header that breaks off",
        ),
    ],
)
def test_a_damaged_array_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npy"):
        read(tmp_path / "x.npy")


def test_an_archive_in_place_of_an_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, x=np.zeros((28, 28)))
    with pytest.raises(InputError, match="one array"):
        read(tmp_path / "x.npy")
