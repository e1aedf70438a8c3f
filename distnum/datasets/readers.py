"""Data sets from files: folders of IDX files, ``.npz`` archives, URIs, and the digits in the package.

Reading never executes code in a file, and the sizes in a file's header are checked before memory is allocated.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from importlib import resources
from math import prod
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset
from distnum.storage.remote import fetched
from distnum.storage.uris import check_no_password, is_uri

__all__ = ["UNREADABLE_ARRAY", "check_memory", "load_data", "read_idx", "why_unreadable"]

EMBEDDED = "mnist-10k"
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_PIECE_BYTES = 1 << 24
_SMALL_BYTES = 1 << 27  # no check of the memory below
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_data(source: str | Path | Dataset = EMBEDDED) -> Dataset:
    """Read a data set.

    Args:
        source: ``"mnist-10k"``, which is in the package, or the path or URI (``s3://...``) of a folder with the four
            IDX files (``train-images-idx3-ubyte`` and so on, gzipped or not), or of an ``.npz`` archive of ``x_train,
            y_train, x_test, y_test``. A ``Dataset`` is returned as it is.

    Raises:
        InputError: The data set is not found or cannot be read.

    >>> load_data("mnist-10k").x_train.shape
    (8000, 28, 28)
    """
    if isinstance(source, Dataset):
        return source
    if source == EMBEDDED:
        with resources.as_file(resources.files("distnum.datasets") / "mnist_10k") as folder:
            return _load_idx_folder(folder, EMBEDDED)
    if source == "":
        raise InputError("data is ''; it must name a data set, a folder or a file.")
    check_no_password(source if isinstance(source, str) else None, "data")
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
        paths = [path for path in candidates if path.is_file()]
        if not paths:
            raise InputError(f"data: {name} has no {file_name} or {file_name}.gz; the folder must hold the four files.")
        arrays[field] = read_idx(paths[0], n_axes=3 if field.startswith("x") else 1)
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
    OverflowError,
    RuntimeError,
    SyntaxError,
    TokenError,
)
"""What NumPy raises for files that hold no arrays or are damaged."""


def why_unreadable(error: BaseException) -> str:
    """Return the reason in NumPy's words after a colon; an empty string if they advise unpickling the file."""
    text = str(error).strip()
    return "" if not text or "pickle" in text else f": {text.splitlines()[0].rstrip('.')}"


def read_idx(path: Path, n_axes: int | None = None) -> NDArray[np.generic]:
    """Read the array in an IDX file (http://yann.lecun.com/exdb/mnist), gzipped if its name ends in ``.gz``.

    Args:
        path: The file.
        n_axes: The number of axes that the array must have; None allows 1 to 4.

    Returns:
        The array in the machine's byte order.

    Raises:
        InputError: The file is no IDX file, or holds fewer or more bytes than its header says.
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
            n_bytes = dtype.itemsize * prod(shape)
            check_memory(n_bytes if dtype.itemsize == 1 else 2 * n_bytes, path)
            # Memory is taken when it is filled, so that a false size in the header takes none.
            content = np.empty(n_bytes, np.uint8)
            n_held = 0
            while n_held < n_bytes and (n_read := file.readinto(content[n_held : n_held + _PIECE_BYTES].data)):
                n_held += n_read
            more = n_held == n_bytes and file.read(1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from None
    if n_held < n_bytes or more:
        held = "more" if more else f"{n_held:,}"
        raise InputError(f"{path}: its header {shape} means {n_bytes:,} bytes, but it holds {held}.")
    content.flags.writeable = False
    return content.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def check_memory(n_bytes: int, name: str | Path) -> None:
    """Check that the arrays of a file, which may be compressed, fit into the memory that this machine has left.

    Args:
        n_bytes: Bytes of the arrays, by the headers of the file.
        name: The file, for messages.

    Raises:
        InputError: They do not fit.
    """
    if n_bytes < _SMALL_BYTES:
        return
    import psutil

    available = psutil.virtual_memory().available
    if n_bytes > available:
        raise InputError(
            f"{name}: reading it takes {n_bytes / 1e9:,.1f} GB of memory, but this machine has "
            f"{available / 1e9:,.1f} GB left."
        )


def _load_npz(path: Path, name: str) -> Dataset:
    fields = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as file, np.errstate(all="ignore"):  # NumPy multiplies the sizes in a header
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"data: {name} holds one array; it must be an .npz with {', '.join(fields)}.")
            missing = [field for field in fields if field not in archive.files]
            if missing:
                raise InputError(f"data: {name} has no {', '.join(missing)}; it must hold {', '.join(fields)}.")
            sizes = {info.filename: info.file_size for info in archive.zip.infolist()}  # type: ignore[union-attr]
            check_memory(sum(sizes.get(f"{field}.npy", sizes.get(field, 0)) for field in fields), f"data: {name}")
            arrays = {field: archive[field] for field in fields}
    except InputError:
        raise
    except UNREADABLE_ARRAY as error:
        raise InputError(f"data: {name} cannot be read as an .npz of plain arrays{why_unreadable(error)}.") from None
    return Dataset(**arrays, name=name)
