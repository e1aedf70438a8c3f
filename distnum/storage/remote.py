"""Files at URIs, through fsspec: open a file system, check for a run, download, and upload."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.uris import check_no_password, is_uri

__all__ = ["TEMPORARY_PREFIX", "fetched", "is_alive", "open_file_system", "put_file", "run_exists", "this_machine"]

TEMPORARY_PREFIX = "distnum-mirror-"
"""Start of the names of temporary local folders."""

# Object stores have no folders; making one there may create a bucket.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2"}


def run_exists(location: str) -> bool:
    """Return whether a folder or a URI holds a run.

    Raises:
        InputError: The URI cannot be read.
    """
    if not is_uri(location):
        return (Path(location) / "config.toml").exists()
    fs, root = open_file_system(location, "out")
    try:
        return bool(fs.exists(f"{root}/config.toml"))
    except Exception as error:
        raise InputError(f"out is {location!r}, which cannot be read: {first_line(error)}.") from None


def open_file_system(uri: str, field: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI, and the path in it.

    Args:
        uri: The URI.
        field: Name of the option that gave the URI, for messages.

    Raises:
        InputError: The URI holds a password, is not valid, or needs a package that is not installed.
    """
    check_no_password(uri, field)
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{field} is {uri!r}, a URI, which needs fsspec: pip install 'distnum[remote]'.") from None
    try:
        # Without a cache of listings, as other processes write there too.
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{field} is {uri!r}, which needs a package that is missing: {error}.") from None
    except Exception as error:
        raise InputError(f"{field} is {uri!r}, which cannot be opened: {first_line(error)}.") from None
    return fs, str(path).rstrip("/")


def put_file(fs: Any, path: str, content: bytes) -> None:
    """Write a file through fsspec; on disks and object stores it appears only when it is complete."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    folder, _, name = path.rpartition("/")
    if not protocols & _OBJECT_STORES:
        fs.makedirs(folder, exist_ok=True)
    if "file" in protocols:
        # An object store shows only complete objects, but a disk shows a file while it grows.
        temporary = f"{folder}/.{name}.{uuid4().hex}.part"
        try:
            fs.pipe_file(temporary, content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    else:
        fs.pipe_file(path, content)


@contextlib.contextmanager
def fetched(uri: str, field: str) -> Iterator[Path]:
    """Download the file or the folder at a URI, and remove the copy at the end of the ``with`` block.

    Args:
        uri: The URI.
        field: Name of the option that gave the URI, for messages.

    Raises:
        InputError: It is not found or cannot be read.
    """
    fs, path = open_file_system(uri, field)
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}{this_machine()}-{os.getpid()}-") as folder:
        copy = Path(folder) / path.rpartition("/")[2]
        try:
            if not fs.exists(path):
                raise InputError(f"{field} is {uri!r}, which is not found.")
            if fs.isdir(path):
                copy.mkdir()
                for name in fs.ls(path, detail=False):
                    if fs.isfile(name):
                        fs.get_file(name, str(copy / str(name).rstrip("/").rpartition("/")[2]))
            else:
                fs.get_file(path, str(copy))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{field} is {uri!r}, which cannot be read: {first_line(error)}.") from None
        yield copy


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return True


@cache
def this_machine() -> str:
    """Return a name of the machine and its process namespace, as machines may share a folder for temporary files."""
    name = platform.node()
    with contextlib.suppress(OSError):  # Linux only
        name += Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return sha256(name.encode()).hexdigest()[:8]
