"""Files of data are read unchanged, or refused by name."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distnum import Dataset, InputError, load_data
from distnum.datasets.readers import read_idx
from tests.datasets.helpers import Unpickled, refusal, small_arrays

FASHION = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
FIELDS = tuple(FILES)
CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_header(*shape: int, code: int = 8) -> bytes:
    return bytes([0, 0, code, len(shape)]) + np.array(shape, ">u4").tobytes()


def idx_bytes(array: NDArray[Any], code: int = 8, dtype: str = ">u1") -> bytes:
    return idx_header(*array.shape, code=code) + array.astype(dtype).tobytes()


def write_folder(folder: Path, arrays: dict[str, NDArray[Any]], gzipped: bool = False) -> Path:
    folder.mkdir()
    for field, name in FILES.items():
        content = idx_bytes(arrays[field])
        (folder / (name + ".gz" * gzipped)).write_bytes(gzip.compress(content) if gzipped else content)
    return folder


def assert_equal_data(dataset: Dataset, expected: dict[str, NDArray[Any]]) -> None:
    for field, array in expected.items():
        np.testing.assert_array_equal(getattr(dataset, field), array)


# --- valid files --------------------------------------------------------------------


def test_the_digits_in_the_package_have_the_documented_shapes_and_shares() -> None:
    digits = load_data()
    assert digits.name == "mnist-10k"
    assert digits.x_train.shape == (8000, 28, 28)
    assert digits.x_test.shape == (2000, 28, 28)
    assert digits.x_train.dtype == digits.x_test.dtype == np.uint8
    assert (digits.n_inputs, digits.n_outputs, digits.has_labels) == (784, 10, True)
    for labels in (digits.y_train, digits.y_test):
        shares = np.bincount(labels, minlength=10) / len(labels)
        assert shares.shape == (10,)
        assert shares.min() > 0.08
        assert shares.max() < 0.12
    pixels = np.concatenate([digits.x_train, digits.x_test])
    assert np.count_nonzero(pixels) / pixels.size == pytest.approx(0.192, abs=0.0005)


def test_training_and_test_digits_are_disjoint() -> None:
    digits = load_data("mnist-10k")
    trained = {picture.tobytes() for picture in digits.x_train}
    assert not trained & {picture.tobytes() for picture in digits.x_test}


@pytest.mark.skipif(not FASHION.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_read_from_disk() -> None:
    fashion = load_data(FASHION)
    assert fashion.x_train.shape == (60_000, 28, 28)
    assert fashion.x_test.shape == (10_000, 28, 28)
    assert np.bincount(fashion.y_train).tolist() == [6000] * 10
    assert np.bincount(fashion.y_test).tolist() == [1000] * 10
    nonzero = np.count_nonzero(fashion.x_train) + np.count_nonzero(fashion.x_test)
    assert nonzero / (70_000 * 784) == pytest.approx(0.498, abs=0.0005)


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_of_idx_files_is_read_unchanged(
    tmp_path: Path, gzipped: bool, kind: Callable[[Path], str | Path]
) -> None:
    folder = write_folder(tmp_path / "digits", small_arrays(), gzipped)
    dataset = load_data(kind(folder))
    assert_equal_data(dataset, small_arrays())
    assert dataset.example_shape == (4, 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_unchanged(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "d.npz", **small_arrays(), other=np.zeros(3))
    assert_equal_data(load_data(tmp_path / "d.npz"), small_arrays())


@pytest.mark.parametrize(("code", "dtype"), [(code, f">{kind}") for kind, code in CODES.items()])
def test_every_idx_type_is_read_unchanged(tmp_path: Path, code: int, dtype: str) -> None:
    stored = np.array([[1, 100], [0, 7], [3, 2]])
    (tmp_path / "a").write_bytes(idx_bytes(stored, code, dtype))
    read = read_idx(tmp_path / "a")
    np.testing.assert_array_equal(read, stored)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")


def test_a_data_set_is_returned_as_it_is() -> None:
    dataset = Dataset(**small_arrays())
    assert load_data(dataset) is dataset


# --- invalid IDX files --------------------------------------------------------------


WHOLE = idx_bytes(small_arrays()["x_train"])
BAD_IDX = {
    "empty": b"",
    "two bytes": b"\0\0",
    "wrong magic": b"\x89PNG" + WHOLE[4:],
    "unknown type": idx_header(6, 4, 3, code=0x0A) + WHOLE[16:],
    "no axes": b"\0\0\x08\0",
    "five axes": idx_header(6, 4, 3, 1, 1) + WHOLE[16:],
    "labels in place of pictures": idx_bytes(small_arrays()["y_train"]),
    "ends within the header": WHOLE[:10],
    "header only": WHOLE[:16],
    "cut short": WHOLE[:-1],
    "a byte left over": WHOLE + b"\0",
    "promises terabytes": idx_header(2**32 - 1, 1024, 1024) + WHOLE[16:],
    "promises more than fits 64 bits": idx_header(*[2**32 - 1] * 3) + WHOLE[16:],
}


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("content", BAD_IDX.values(), ids=BAD_IDX.keys())
def test_a_bad_idx_file_is_refused_by_name_without_allocating_memory(
    tmp_path: Path, content: bytes, gzipped: bool
) -> None:
    folder = write_folder(tmp_path / "digits", small_arrays(), gzipped)
    name = FILES["x_train"] + ".gz" * gzipped
    (folder / name).write_bytes(gzip.compress(content) if gzipped else content)
    tracemalloc.start()
    try:
        message = refusal(lambda: load_data(folder))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert name in message
    assert peak < 2**26


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


BAD_GZIP = {
    "not gzipped": WHOLE,
    "cut within its header": _compressed(WHOLE)[:5],
    "cut within its content": _compressed(WHOLE)[:40],
    "cut within its checksum": _compressed(WHOLE)[:-2],
    "wrong checksum": _compressed(WHOLE)[:-8] + b"\1\2\3\4" + _compressed(WHOLE)[-4:],
    "damaged content": _compressed(WHOLE)[:20] + b"\xff" * 20 + _compressed(WHOLE)[40:],
    "something after it": _compressed(WHOLE) + b"something",
    "two in a row": _compressed(WHOLE) * 2,
}


@pytest.mark.parametrize("content", BAD_GZIP.values(), ids=BAD_GZIP.keys())
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = write_folder(tmp_path / "digits", small_arrays(), gzipped=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    assert "t10k-images-idx3-ubyte.gz" in refusal(lambda: load_data(folder))


@pytest.mark.parametrize("shape", [(0, 2**32 - 1, 2**32 - 1), (2**32 - 1, 0, 2**32 - 1, 2**32 - 1)])
def test_a_header_with_an_empty_and_a_huge_axis_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "empty-idx").write_bytes(idx_header(*shape))
    assert "empty-idx" in refusal(lambda: read_idx(tmp_path / "empty-idx"))


@pytest.mark.parametrize("name", FILES.values())
def test_a_missing_idx_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "digits", small_arrays())
    (folder / name).unlink()
    message = refusal(lambda: load_data(folder))
    assert name in message
    assert str(folder) in message


def test_idx_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    arrays = small_arrays() | {"y_train": np.zeros(5, np.uint8)}
    message = refusal(lambda: load_data(write_folder(tmp_path / "digits", arrays)))
    assert "x_train has 6 rows but y_train has 5" in message
    assert "digits" in message


def _read_or_refusal(path: Path, content: bytes) -> NDArray[Any] | str:
    """The array that these bytes give, or the message that refuses them."""
    path.write_bytes(content)
    try:
        return read_idx(path)
    except InputError as error:
        return str(error)


def _is_one_line_about(path: Path, message: str) -> bool:
    return message.splitlines() == [message] and message.strip() != "" and path.name in message


def _is_content_of(path: Path, read: object) -> bool:
    """Whether this is an array that, written again, gives the file."""
    if not isinstance(read, np.ndarray) or read.size == 0 or not read.dtype.isnative:
        return False
    content = path.read_bytes()
    kind = read.dtype.str[1:]
    return idx_bytes(read, CODES[kind], f">{kind}") == (gzip.decompress(content) if path.suffix == ".gz" else content)


edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)


@given(content=st.binary(max_size=80), valid_start=st.booleans(), gzipped=st.booleans())
def test_random_bytes_parse_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, valid_start: bool, gzipped: bool
) -> None:
    content = (b"\0\0\x08\x01" if valid_start else b"") + content
    path = tmp_path_factory.getbasetemp() / ("random.gz" if gzipped else "random")
    read = _read_or_refusal(path, gzip.compress(content) if gzipped else content)
    if isinstance(read, str):
        assert _is_one_line_about(path, read)
    else:
        assert _is_content_of(path, read)


@given(changes=edits, cut=st.integers(0, 200), extra=st.binary(max_size=4), gzipped=st.booleans())
def test_a_damaged_idx_file_parses_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    cut: int,
    extra: bytes,
    gzipped: bool,
) -> None:
    content = bytearray(_compressed(WHOLE) if gzipped else WHOLE)
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / ("damaged.gz" if gzipped else "damaged")
    read = _read_or_refusal(path, bytes(content[: len(content) - cut]) + extra)
    if isinstance(read, str):
        assert _is_one_line_about(path, read)
    else:
        assert _is_content_of(path, read)


# --- invalid npz archives -----------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_an_npz_without_a_field_is_refused_with_its_name(tmp_path: Path, field: str) -> None:
    np.savez(tmp_path / "d.npz", **{name: array for name, array in small_arrays().items() if name != field})
    message = refusal(lambda: load_data(tmp_path / "d.npz"))
    assert f"has no {field}" in message
    assert "d.npz" in message


@pytest.mark.parametrize("form", ["npz", "npy", "pickle"])
def test_pickled_objects_are_refused_and_not_unpickled(tmp_path: Path, form: str) -> None:
    created, path = tmp_path / "created", tmp_path / "objects.npz"
    objects = np.array([Unpickled(created)], dtype=object)
    with path.open("wb") as file:
        if form == "npz":
            np.savez(file, **(small_arrays() | {"y_test": objects}))
        elif form == "npy":
            np.save(file, objects)
        else:
            pickle.dump(objects, file)
    # Unpickling would create the file.
    loaded = np.load(path, allow_pickle=True)
    if form == "npz":
        with loaded:
            loaded["y_test"]
    assert created.exists()
    created.unlink()

    assert "objects.npz" in refusal(lambda: load_data(path))
    assert not created.exists()


def _npz(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **(small_arrays() | changes))
    return file.getvalue()


def _npz_with_header(header: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for field, array in small_arrays().items():
            with archive.open(f"{field}.npy", "w") as member:
                if field == "x_train":
                    text = header.encode().ljust(117) + b"\n"
                    member.write(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + array.tobytes())
                else:
                    np.save(member, array)
    return file.getvalue()


def _central_directory_changed(offset: int, value: int) -> bytes:
    content = bytearray(_npz())
    content[content.index(b"PK\x01\x02") + offset] = value
    return bytes(content)


_PIXEL = _npz().index(small_arrays()["x_train"].tobytes())
BAD_NPZ = {
    "empty": b"",
    "text": b"x_train = 5\n",
    "a flipped pixel": _npz()[:_PIXEL] + bytes([_npz()[_PIXEL] ^ 1]) + _npz()[_PIXEL + 1 :],
    "promises terabytes": _npz_with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (2199023255552, 2), }"),
    "promises more than fits 64 bits": _npz_with_header(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }"
    ),
    "negative shape": _npz_with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 12), }"),
    "header of another kind": _npz_with_header("{'shape': 5}"),
    "code in the header": _npz_with_header("__import__('os').getcwd()"),
}


@pytest.mark.parametrize("content", BAD_NPZ.values(), ids=BAD_NPZ.keys())
def test_a_bad_npz_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    assert "bad.npz" in refusal(lambda: load_data(tmp_path / "bad.npz"))


@pytest.mark.parametrize("name", ["data.npz", "images", "images.gz"])
def test_data_that_expand_to_more_than_the_memory_are_refused_before_they_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name == "data.npz":
        zeros = np.zeros((60_000, 3000), np.uint8)
        np.savez_compressed(path, x_train=zeros, y_train=zeros[:, 0], x_test=zeros[:1], y_test=zeros[:1, 0])
        del zeros
    else:
        path.write_bytes(gzip.compress(idx_header(60_000, 3000)) if path.suffix else idx_header(60_000, 3000))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=150_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"reading it takes 0\.2 GB of memory, but this machine has 0\.1 GB left"):
            (load_data if name == "data.npz" else read_idx)(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_an_npz_with_an_incomplete_header_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(_npz_with_header("{"))
    assert "bad.npz" in refusal(lambda: load_data(tmp_path / "bad.npz"))


@pytest.mark.parametrize("length", [4, 100, len(_npz()) - 1])
def test_an_npz_cut_short_is_refused_by_name(tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.npz").write_bytes(_npz()[:length])
    assert "cut.npz" in refusal(lambda: load_data(tmp_path / "cut.npz"))


def test_a_refused_npz_is_closed(tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(_npz()[:100])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        refusal(lambda: load_data(tmp_path / "cut.npz"))
    assert [str(one.message) for one in caught] == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_central_directory_changed(8, 0x01), id="encrypted"),
        pytest.param(_central_directory_changed(8, 0x40), id="strongly encrypted"),
        pytest.param(_central_directory_changed(10, 99), id="unknown compression"),
    ],
)
def test_an_npz_that_zipfile_cannot_open_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    assert "bad.npz" in refusal(lambda: load_data(tmp_path / "bad.npz"))


@pytest.mark.parametrize("name", ["one.npy", "one.npz"])
def test_a_single_array_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.zeros((3, 4)))
    message = refusal(lambda: load_data(tmp_path / name))
    assert name in message
    assert "one array" in message


def test_the_error_for_other_files_does_not_advise_unpickling(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an archive")
    message = refusal(lambda: load_data(tmp_path / "notes.txt"))
    assert "notes.txt" in message
    assert "pickle" not in message


# --- other invalid sources ----------------------------------------------------------


@pytest.mark.parametrize("source", ["mnist", "no/such/folder", "a\0b"])
def test_a_missing_source_is_named_with_what_is_allowed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(lambda: load_data(source))
    assert repr(source) in message
    assert "mnist-10k" in message
    assert ".npz" in message


@pytest.mark.parametrize("source", ["x" * 5000, "~no-such-user-at-all/data"], ids=["too long", "no such user"])
def test_a_source_that_cannot_be_looked_up_is_refused(source: str) -> None:
    assert "data" in refusal(lambda: load_data(source))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in refusal(lambda: load_data(tmp_path / "pipe"))
    folder = write_folder(tmp_path / "digits", small_arrays())
    (folder / FILES["y_test"]).unlink()
    os.mkfifo(folder / FILES["y_test"])
    assert FILES["y_test"] in refusal(lambda: load_data(folder))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything; for a while it is nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions here")
@pytest.mark.parametrize("locked", ["digits", f"digits/{FILES['y_train']}", "d.npz"])
def test_a_file_without_read_permission_is_refused_by_name(tmp_path: Path, locked: str) -> None:
    write_folder(tmp_path / "digits", small_arrays())
    np.savez(tmp_path / "d.npz", **small_arrays())
    (tmp_path / locked).chmod(0)
    source = tmp_path / locked.split("/")[0]
    try:
        with unprivileged():
            message = refusal(lambda: load_data(source))
    finally:
        (tmp_path / locked).chmod(0o700)
    assert str(source) in message


def test_an_npz_of_unusable_arrays_is_refused_by_file_and_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **(small_arrays() | {"x_test": np.zeros((3, 4, 3), complex)}))
    message = refusal(lambda: load_data(tmp_path / "d.npz"))
    assert "d.npz" in message
    assert "x_test" in message
