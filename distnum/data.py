"""Data sets, and the batch of every step.

A data set is four arrays. It comes with the package (``mnist-10k``), from a folder of the
four standard IDX files, from an ``.npz``, or from arrays in Python. Files are read without
executing anything in them, and what a header says is checked against the file first.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.errors import InputError
from distnum.randomness import Purpose, random_generator
from distnum.remote import fetched
from distnum.uris import is_uri

__all__ = ["Batch", "Dataset", "arrays_sha256", "batch_at", "batch_of_rows", "load_data", "read_idx"]

EMBEDDED = "mnist-10k"
_LARGEST_LABEL = 65535

_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Batch(NamedTuple):
    """Some examples: ``x`` of shape ``(n, n_inputs)`` and their targets ``y``."""

    x: NDArray[np.floating]
    y: NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and examples to test on.

    Args:
        x_train, x_test: one example a row, any shape; numbers. Bytes (``uint8``) are taken
            as pixels and divided by 255 when they are used, other numbers are taken as
            they are.
        y_train, y_test: labels ``0, 1, ...`` of shape ``(n,)``, or real targets
            ``(n, n_outputs)``.
        name: for people.

    Raises:
        InputError: the arrays do not fit together, or hold what cannot be used.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.generic]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.generic]
    name: str = "arrays"

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = (
                _as_array(getattr(self, f"x_{split}"), f"x_{split}"),
                _as_array(getattr(self, f"y_{split}"), f"y_{split}"),
            )
            x, y = _checked_examples(x, f"x_{split}", self.name), _checked_targets(y, f"y_{split}", self.name)
            if len(x) != len(y):
                raise InputError(
                    f"{self.name}: x_{split} has {len(x):,} rows but y_{split} has {len(y):,}; they must match."
                )
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: x_train has examples of shape {self.x_train.shape[1:]}, x_test of "
                f"{self.x_test.shape[1:]}; they must be the same."
            )
        if self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise InputError(
                f"{self.name}: y_train has targets of shape {self.y_train.shape[1:]}, y_test of "
                f"{self.y_test.shape[1:]}; they must be the same."
            )

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example as it came: ``(28, 28)`` for digits."""
        return tuple(int(n) for n in self.x_train.shape[1:])

    @property
    def n_inputs(self) -> int:
        return int(np.prod(self.example_shape))

    @property
    def has_labels(self) -> bool:
        """Whether the targets are labels, not real numbers."""
        return self.y_train.ndim == 1

    @cached_property
    def n_outputs(self) -> int:
        """How many classes there are, or how many real targets an example has."""
        if not self.has_labels:
            return int(self.y_train.shape[1])
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the four arrays: their dtypes, shapes and bytes."""
        return arrays_sha256(self.x_train, self.y_train, self.x_test, self.y_test)

    def train(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Training examples, flat and scaled."""
        return Batch(as_inputs(self.x_train[rows], dtype), self.y_train[rows])

    def test(self, rows: NDArray[np.integer] | slice = slice(None), dtype: DTypeLike = np.float64) -> Batch:
        """Test examples, flat and scaled."""
        return Batch(as_inputs(self.x_test[rows], dtype), self.y_test[rows])


def arrays_sha256(*arrays: Any) -> str:
    """SHA-256 over arrays: their dtypes, shapes and bytes; Python objects in them are not looked into."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        if not array.dtype.hasobject:
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _as_array(value: Any, field: str) -> NDArray[np.generic]:
    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"{field} has rows of different lengths; it must be one array.") from None


def as_inputs(x: NDArray[np.generic], dtype: DTypeLike) -> NDArray[np.floating]:
    """Examples as a network takes them: flat rows, bytes scaled to 0 ... 1."""
    flat = x.reshape(len(x), -1)
    if flat.dtype == np.uint8:
        return flat.astype(dtype) / np.dtype(dtype).type(255)
    return flat.astype(dtype)


def _checked_examples(x: NDArray[np.generic], field: str, name: str) -> NDArray[np.generic]:
    if x.ndim < 2 or x.size == 0:
        raise InputError(f"{name}: {field} has shape {x.shape}; it must have a row for each example, at least one.")
    if x.dtype.kind not in "uif":
        raise InputError(f"{name}: {field} has dtype {x.dtype}; it must hold real numbers.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0][0])
        raise InputError(f"{name}: {field} holds a number that is not finite, in row {row}; all must be finite.")
    return x


def _checked_targets(y: NDArray[np.generic], field: str, name: str) -> NDArray[np.generic]:
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "ui":
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "uif" and y.size:
        if not np.isfinite(y).all():
            raise InputError(f"{name}: {field} holds a target that is not finite; all must be finite.")
        return y
    if y.ndim != 1 or not y.size:
        raise InputError(f"{name}: {field} has shape {y.shape}; it must be (n,) labels or (n, n_outputs) targets.")
    whole = y.dtype.kind in "ui" or (y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.floor(y)).all())
    if not whole:
        raise InputError(f"{name}: {field} has dtype {y.dtype}; labels must be whole numbers 0, 1, 2, ...")
    if y.min() < 0 or y.max() > _LARGEST_LABEL:
        wrong = y.min() if y.min() < 0 else y.max()
        raise InputError(f"{name}: {field} holds the label {wrong}; labels must be from 0 to {_LARGEST_LABEL}.")
    return y.astype(np.int64) if y.dtype.kind == "f" else y


# --- batches ------------------------------------------------------------------------


def batch_at(dataset: Dataset, seed: int, batch_size: int, dtype: DTypeLike, step: int) -> Batch:
    """The batch of a step: a pure function of its arguments.

    ``batch_size`` different training examples drawn at random, independently for each step.
    """
    return dataset.train(_rows_at(len(dataset.x_train), seed, batch_size, step), dtype)


def batch_of_rows(arrays: Any, seed: int, batch_size: int, step: int) -> Any:
    """The batch of a step from an array, or a tuple of arrays of one length: the same rows of each."""
    first = arrays[0] if isinstance(arrays, tuple) else arrays
    rows = _rows_at(len(first), seed, batch_size, step)
    return tuple(array[rows] for array in arrays) if isinstance(arrays, tuple) else arrays[rows]


def _rows_at(n_rows: int, seed: int, batch_size: int, step: int) -> NDArray[np.int64]:
    return random_generator(seed, Purpose.BATCH, step).choice(n_rows, batch_size, replace=False)


# --- files --------------------------------------------------------------------------


def load_data(source: str | Path | Dataset = EMBEDDED) -> Dataset:
    """A data set by name or path.

    Args:
        source: ``"mnist-10k"`` (in the package), a folder of the four IDX files
            (``train-images-idx3-ubyte`` and so on, gzipped or not), or an ``.npz`` with
            ``x_train, y_train, x_test, y_test``; the path or the URI (``s3://...``) of one.

    Raises:
        InputError: there is no such thing, or it cannot be read.
    """
    if isinstance(source, Dataset):
        return source
    if source == EMBEDDED:
        with resources.as_file(resources.files("distnum") / "datasets" / "mnist_10k") as folder:
            return _load_idx_folder(folder, EMBEDDED)
    if source == "":
        raise InputError("data is ''; it must name a data set, a folder or a file.")
    if isinstance(source, str) and is_uri(source):
        with fetched(source, "data") as path:
            return replace(load_data(path), name=source)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _load_idx_folder(path, str(path.resolve()))
        if path.is_file():
            return _load_npz(path, str(path.resolve()))
        exists = path.exists()
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"data is {str(source)!r}, which cannot be read: {reason.rstrip('.')}.") from None
    what = "neither a folder nor a file" if exists else "not found"
    raise InputError(
        f"data is {str(source)!r}, which is {what}; it must be {EMBEDDED}, a folder of the four IDX files, "
        "or an .npz file."
    )


def _load_idx_folder(folder: Path, name: str) -> Dataset:
    arrays = {}
    for field, file_name in _IDX_FILES.items():
        candidates = [folder / file_name, folder / f"{file_name}.gz"]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise InputError(f"data: {name} has no {file_name} or {file_name}.gz; the folder must hold the four files.")
        arrays[field] = read_idx(found[0], n_axes=3 if field.startswith("x") else 1)
    return Dataset(**arrays, name=name)


UNREADABLE_ARRAY = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    BadZipFile,
    zlib.error,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TokenError,
)
"""What NumPy raises for files that are not arrays, or are damaged."""


def why_unreadable(error: BaseException) -> str:
    """The reason in NumPy's words, unless they advise to unpickle the file."""
    text = str(error).strip()
    return "" if not text or "pickle" in text else f": {text.splitlines()[0].rstrip('.')}"


def read_idx(path: Path, n_axes: int | None = None) -> NDArray[np.generic]:
    """The array in an IDX file (http://yann.lecun.com/exdb/mnist), gzipped if it ends in ``.gz``.

    The sizes in the header are checked against what the file holds; no more than that is
    ever read.

    Raises:
        InputError: the file is not such a file, is cut short, or has bytes left over.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 4:
                raise InputError(f"{path}: not an IDX file; it must begin with 0, 0, a type, and 1 to 4 axes.")
            if n_axes is not None and head[3] != n_axes:
                raise InputError(f"{path}: has {head[3]} axes; this file must have {n_axes}.")
            axes = file.read(4 * head[3])
            if len(axes) < 4 * head[3]:
                raise InputError(f"{path}: ends within its header.")
            shape = tuple(int(n) for n in np.frombuffer(axes, ">u4"))
            if 0 in shape:
                raise InputError(
                    f"{path}: its header {shape} says that it is empty; there must be at least one example."
                )
            dtype = np.dtype(_IDX_TYPES[head[2]])
            n_bytes = dtype.itemsize
            for n in shape:
                n_bytes *= n
            content = _read_up_to(file, n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from None
    if len(content) != n_bytes:
        found = "more" if len(content) > n_bytes else f"{len(content):,}"
        raise InputError(f"{path}: its header {shape} promises {n_bytes:,} bytes, but it holds {found}.")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: Any, n_bytes: int) -> bytes:
    # In pieces: a header that promises terabytes must not make us ask for them.
    pieces = []
    while n_bytes > 0:
        piece = file.read(min(n_bytes, 1 << 24))
        if not piece:
            break
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def _load_npz(path: Path, name: str) -> Dataset:
    fields = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"data: {name} holds one array; it must be an .npz with {', '.join(fields)}.")
            missing = [field for field in fields if field not in archive.files]
            if missing:
                raise InputError(f"data: {name} has no {', '.join(missing)}; it must hold {', '.join(fields)}.")
            arrays = {field: archive[field] for field in fields}
    except InputError:
        raise
    except UNREADABLE_ARRAY as error:
        raise InputError(f"data: {name} cannot be read as an .npz of plain arrays{why_unreadable(error)}.") from None
    return Dataset(**arrays, name=name)
