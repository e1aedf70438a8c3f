"""Places at URIs, through fsspec: whether a run is there, and copies of data from there."""

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

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.uris import check_no_password, is_uri

__all__ = ["TEMPORARY_PREFIX", "fetched", "is_alive", "open_file_system", "run_exists", "this_machine"]

TEMPORARY_PREFIX = "distnum-mirror-"


def run_exists(place: str) -> bool:
    """Whether a run has been kept at a place, a folder or a URI.

    Raises:
        InputError: it is out of reach.
    """
    if not is_uri(place):
        return (Path(place) / "config.toml").exists()
    fs, root = open_file_system(place, "out")
    try:
        return bool(fs.exists(f"{root}/config.toml"))
    except Exception as error:
        raise InputError(f"out is {place!r}, which cannot be read: {first_line(error)}.") from None


def open_file_system(uri: str, field: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it."""
    check_no_password(uri, field)
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{field} is {uri!r}, a URI, which needs fsspec: pip install 'distnum[remote]'.") from None
    try:
        # Never from a cache of listings: other processes write there too.
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{field} is {uri!r}, which needs a package that is missing: {error}.") from None
    except Exception as error:
        raise InputError(f"{field} is {uri!r}, which cannot be opened: {first_line(error)}.") from None
    return fs, str(path).rstrip("/")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@cache
def this_machine() -> str:
    """A name for where process ids mean what they do here: folders for temporary files may be shared by machines."""
    told = platform.node()
    with contextlib.suppress(OSError):  # on Linux only
        told += Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return sha256(told.encode()).hexdigest()[:8]


@contextlib.contextmanager
def fetched(uri: str, field: str) -> Iterator[Path]:
    """A copy here, for a while, of the file or folder at a URI.

    Raises:
        InputError: it cannot be had.
    """
    fs, path = open_file_system(uri, field)
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}{this_machine()}-{os.getpid()}-") as folder:
        to = Path(folder) / path.rpartition("/")[2]
        try:
            if not fs.exists(path):
                raise InputError(f"{field} is {uri!r}, which is not found.")
            if fs.isdir(path):
                to.mkdir()
                for name in fs.ls(path, detail=False):
                    if fs.isfile(name):
                        fs.get_file(name, str(to / str(name).rstrip("/").rpartition("/")[2]))
            else:
                fs.get_file(path, str(to))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{field} is {uri!r}, which cannot be read: {first_line(error)}.") from None
        yield to
