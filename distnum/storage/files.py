"""Files that are replaced as a whole, carry a checksum, hold TOML, or are locked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from numpy.typing import NDArray

from distnum.common.errors import InputError, TrainingError
from distnum.storage.plain_files import above_streams, open_plain, read_plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "CheckpointError",
    "lock",
    "part_of",
    "read_toml",
    "remove_parts",
    "sealed",
    "unsealed",
    "write_error",
    "write_toml",
    "write_whole",
]


class CheckpointError(ValueError):
    """A file is not a complete, undamaged checkpoint."""


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace a file atomically, and flush it to the disk.

    At every moment the path holds either the old file or the complete new one. The new file is written under a
    temporary name that nobody can predict and that no other file has; a link at the path is replaced, not followed. On
    Linux, where the file system allows it, the new file has no name until it is complete, so that a crash leaves no
    temporary file behind.

    Raises:
        OSError: The file cannot be written; the old one is intact.
    """
    temporary = part_of(path)
    # All names are looked up in this folder, even if another one takes its place meanwhile.
    folder = above_streams(os.open(path.parent, os.O_RDONLY)) if os.name == "posix" else None
    name, part = (path.name, temporary.name) if folder is not None else (str(path), str(temporary))
    try:
        nameless = _nameless(folder)
        with os.fdopen(_new_file(part, folder) if nameless is None else nameless, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if nameless is not None:
                # Only with dst_dir_fd does os.link call linkat(2), which can follow the link in /proc to the file.
                os.link(f"/proc/self/fd/{nameless}", part, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        if folder is not None:
            os.fsync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    finally:
        if folder is not None:
            os.close(folder)


def _new_file(name: str, folder: int | None) -> int:
    """Make a file that does not exist yet, and return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return above_streams(os.open(name, flags, 0o666, dir_fd=folder))


def _nameless(folder: int | None) -> int | None:
    """Make a file without a name in a folder; None if the system or the file system has no such files."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or folder is None or not Path("/proc/self/fd").exists():
        return None
    try:
        return above_streams(os.open(".", flag | os.O_WRONLY, 0o666, dir_fd=folder))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            return None
        raise


_PART = re.compile(r"\..+\.[0-9a-f]{1,32}\.part")


def part_of(path: Path) -> Path:
    """Return a new temporary name for a file, in its folder."""
    return path.with_name(f".{path.name}.{token_hex(8)}.part")


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that ``write_whole`` left in a folder when its process was killed.

    Nobody else may be writing there.
    """
    with contextlib.suppress(OSError):  # the folder is missing
        for name in os.listdir(folder):
            if _PART.fullmatch(name):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def write_error(path: Path, error: OSError, run_name: str) -> TrainingError:
    """Return the error for a file of a run that cannot be written."""
    remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "remove the cause"
    return TrainingError(
        f"{path} cannot be written: {error.strerror or error}. What was written before is intact; "
        f"{remedy} and continue with: distnum resume {run_name}"
    )


def lock(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file or a folder for this process, until the returned descriptor is closed.

    Args:
        path: The file, which must be a plain file, or the folder.
        flags: How to open a file, as for ``os.open``; the default is for a folder.

    Returns:
        The descriptor; None on a system without such locks. On a file system without locks nothing is locked.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: It cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = above_streams(os.open(path, flags)) if flags == os.O_RDONLY else open_plain(path, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # the file system has no locks
    return descriptor


def sealed(kind: str, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> bytes:
    """Return arrays and texts in safetensors format, with a SHA-256 checksum over all of them.

    Args:
        kind: Name and version of the format, which ``unsealed`` checks.
        tensors: The arrays by name.
        about: The texts by name.
    """
    from safetensors.numpy import save

    about = {"format": kind} | dict(about)
    return save(dict(tensors), metadata=about | {"sha256": _checksum(tensors, about)})


def unsealed(kind: str, content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and texts that were given to ``sealed``.

    Raises:
        CheckpointError: The content is of another kind, is cut short, or has a changed bit.
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


def read_toml(path: Path, plain: bool = False) -> dict[str, Any]:
    """Return the fields in a TOML file of a configuration.

    Args:
        path: The file.
        plain: Whether to refuse anything but a plain file. A file that the user names may be a link or a pipe.

    Raises:
        InputError: The file is not found, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads((read_plain(path) if plain else path.read_bytes()).decode())
    except FileNotFoundError:
        raise InputError(f"config is {str(path)!r}, which is not found; it must be a TOML file.") from None
    except OSError as error:
        raise InputError(f"config is {str(path)!r}, which cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"config is {str(path)!r}, which is not valid TOML: {error}") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """Return the text of a TOML file with these fields."""
    import tomli_w

    return tomli_w.dumps(dict(values))
