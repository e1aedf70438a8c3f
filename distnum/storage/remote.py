"""Files at URIs, through fsspec: open a file system, check for a run, download, and upload."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.files import write_whole
from distnum.storage.plain_files import read_plain
from distnum.storage.uris import check_no_password, is_uri

__all__ = [
    "TEMPORARY_PREFIX",
    "content_of",
    "fetched",
    "is_alive",
    "of_a_disk",
    "open_file_system",
    "put_file",
    "remove_abandoned_folders",
    "run_exists",
    "temporary_prefix",
    "this_machine",
]

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
    if not _protocols(fs) & _OBJECT_STORES:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    if of_a_disk(fs):
        # An object store shows only complete objects, but a disk shows a file while it grows.
        write_whole(Path(path), content)
    else:
        fs.pipe_file(path, content)


def content_of(fs: Any, path: str) -> bytes:
    """Return the content of a file through fsspec; on a disk it must be a plain file.

    Raises:
        FileNotFoundError: There is no such file.
        Exception: It cannot be read; the class depends on the file system.
    """
    return read_plain(Path(path)) if of_a_disk(fs) else bytes(fs.cat_file(path))


def of_a_disk(fs: Any) -> bool:
    """Return whether an fsspec file system is the one of this machine."""
    return "file" in _protocols(fs)


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


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
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
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


def temporary_prefix() -> str:
    """Return the start of the name of a temporary local folder of this process; random characters follow."""
    return f"{TEMPORARY_PREFIX}{this_machine()}-{os.getpid()}-"


def remove_abandoned_folders() -> None:
    """Remove temporary local folders of this user's processes that were killed."""
    if os.name != "posix":
        return
    temporary = Path(tempfile.gettempdir())
    name_of_a_folder = re.compile(rf"{TEMPORARY_PREFIX}{this_machine()}-([0-9]{{1,10}})-\w+")
    with contextlib.suppress(OSError):  # it cannot be listed
        for name in os.listdir(temporary):
            named = name_of_a_folder.fullmatch(name)
            # Everybody can make a folder of any name there.
            if named and not is_alive(int(named[1])) and _is_own_folder(temporary / name):
                shutil.rmtree(temporary / name, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    """Return whether this is a folder of this user, and no link to one."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    import psutil

    return 0 < pid < 2**31 and psutil.pid_exists(pid)


@cache
def this_machine() -> str:
    """Return a name of the machine and its process namespace, as machines may share a folder for temporary files."""
    name = platform.node()
    with contextlib.suppress(OSError):  # Linux only
        name += Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return sha256(name.encode()).hexdigest()[:8]
