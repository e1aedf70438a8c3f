"""Files written whole, sealed with a checksum, read as TOML, or locked for one process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from distnum.common.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CheckpointError", "alone_in", "make_folder", "read_toml", "sealed", "unsealed", "write_toml", "write_whole"]


class CheckpointError(ValueError):
    """A file is not a whole, unharmed checkpoint."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is there, whole.

    On Linux nothing else is ever there either, where the file system allows it: the new file
    has no name before it is whole.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    folder = os.open(path.parent, os.O_RDONLY) if os.name == "posix" else None
    try:
        with _nameless(path.parent) or aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if folder is not None and not aside.exists():
                # With folders as descriptors the name below /proc is followed to the file.
                os.link(f"/proc/self/fd/{file.fileno()}", aside.name, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(aside, path)
        if folder is not None:
            os.fsync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    finally:
        if folder is not None:
            os.close(folder)


def _nameless(folder: Path) -> BinaryIO | None:
    """A new file without a name in a folder; None where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not Path("/proc/self/fd").exists():
        return None
    try:
        return os.fdopen(os.open(folder, flag | os.O_WRONLY, 0o666), "wb")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            return None
        raise


def sealed(kind: str, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> bytes:
    """Arrays and texts in safetensors format, with a checksum over all of them."""
    from safetensors.numpy import save

    about = {"format": kind} | dict(about)
    return save(dict(tensors), metadata=about | {"sha256": _checksum(tensors, about)})


def unsealed(kind: str, content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What ``sealed`` was given.

    Raises:
        CheckpointError: it is not of this kind, is cut short, or a bit of it has changed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        n_header = int.from_bytes(content[:8], "little")
        if len(content) < 8 or n_header > len(content) - 8:
            raise CheckpointError("it is cut short")
        about = dict(json.loads(content[8 : 8 + n_header])["__metadata__"])
        if about.get("format") != kind:
            raise CheckpointError("it is not a checkpoint of this format")
        tensors = load(content)
        if about.pop("sha256", None) != _checksum(tensors, about):
            raise CheckpointError("its checksum is wrong")
        return tensors, about
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read ({str(error)[:80]})") from None


def _checksum(tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file.

    Raises:
        InputError: there is no such file, or it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f"config is {str(path)!r}, which is not found; it must be a TOML file.") from None
    except OSError as error:
        raise InputError(f"config is {str(path)!r}, which cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"config is {str(path)!r}, which is not valid TOML: {error}") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """The text of a TOML file with these fields."""
    import tomli_w

    return tomli_w.dumps(dict(values))


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {str(path)!r}, where no experiment can be kept: {error.strerror}.") from None


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Have a folder, which is made if it is not there, for this process alone.

    Raises:
        InputError: another process is measuring in it, or it cannot be made.
    """
    make_folder(path)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    # The folder itself is locked, so that nothing more lies in it.
    held = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"out is {str(path)!r}, which is in use: another distnum process is measuring in it."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(held)
