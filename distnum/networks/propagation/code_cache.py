"""The machine code that Numba keeps on disk, with a checksum, in folders that only trusted users can write.

Numba loads what it finds in its cache without a check: a changed bit crashes the process, and the files are pickled, so
whoever can write them can run code as this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import pickle
import shlex
import stat
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from numba.core import caching

__all__ = ["CodeCache"]

log = logging.getLogger("distnum")

_N_CHECKSUM = hashlib.sha256().digest_size


class _CheckedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's files with a SHA-256 of their name and content at their end.

    A file whose checksum is wrong is deleted, and then made again.

    Args:
        owners: The user ids whose files are loaded.
        arguments: Those of Numba's class.
    """

    def __init__(self, owners: frozenset[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._owners = owners

    def _load_index(self) -> Any:
        try:
            content = io.BytesIO(self._checked_content(self._index_path))
        except FileNotFoundError:
            return {}
        if pickle.load(content) != self._version:
            return {}
        stamp, overloads = pickle.load(content)
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        return pickle.loads(self._checked_content(self._data_path(name)))

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        with super()._open_for_write(filepath) as file:
            content = io.BytesIO()
            yield content
            file.write(content.getvalue() + _checksum(filepath, content.getvalue()))

    def _checked_content(self, path: str) -> bytes:
        """Return the content of a file, or delete it and raise ``FileNotFoundError`` if it is not as it was written."""
        with open(path, "rb") as file:
            ours = os.name != "posix" or os.fstat(file.fileno()).st_uid in self._owners
            content = file.read()
        content, checksum = content[:-_N_CHECKSUM], content[-_N_CHECKSUM:]
        if ours and checksum == _checksum(path, content):
            return content
        log.debug("%s is damaged, or not from this user; it is made again", path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise FileNotFoundError(path)


def _checksum(path: str, content: bytes) -> bytes:
    return hashlib.sha256(os.path.basename(path).encode() + content).digest()


class _Checked:
    """Mixin of Numba's locators: passes over a folder that others can write."""

    _py_file: str

    def ensure_cache_path(self) -> None:
        folder = self.get_cache_path()  # type: ignore[attr-defined]
        if not isinstance(self, caching.InTreeCacheLocator):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        super().ensure_cache_path()  # type: ignore[misc]
        if problem := _problem(folder, self._py_file):
            _warn_once(folder, problem)
            raise PermissionError(f"{folder} {problem}")


class _UserProvided(_Checked, caching.UserProvidedCacheLocator):  # type: ignore[misc]
    pass


class _InTree(_Checked, caching.InTreeCacheLocator):  # type: ignore[misc]
    pass


class _UserWide(_Checked, caching.UserWideCacheLocator):  # type: ignore[misc]
    pass


class _KeptResults(caching.CompileResultCacheImpl):  # type: ignore[misc]
    # In Numba's order: NUMBA_CACHE_DIR, __pycache__ next to the source, ~/.cache/numba.
    _locator_classes = (_UserProvided, _InTree, _UserWide)


class CodeCache(caching.FunctionCache):  # type: ignore[misc]
    """The kept machine code of one function.

    Args:
        function: The function.

    Raises:
        RuntimeError: There is no folder to keep it in.
    """

    _impl_class = _KeptResults

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFiles(
            owners=_trusted_owners(self._impl.locator._py_file),
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )


def _trusted_owners(source: str) -> frozenset[int]:
    """Return the ids of this user, root, and the owner of the source, who could change the code itself."""
    return frozenset({0, os.geteuid(), os.stat(source).st_uid}) if os.name == "posix" else frozenset()


def _problem(folder: str, source: str) -> str:
    """Return why a folder is not used; an empty string if all who can write there can write the source's folder too."""
    if os.name != "posix":
        return ""
    status, of_source = os.stat(folder), os.stat(os.path.dirname(os.path.abspath(source)))
    if status.st_uid not in _trusted_owners(source):
        return "belongs to another user"
    writers, allowed = (one.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for one in (status, of_source))
    if writers & stat.S_IWGRP and status.st_gid != of_source.st_gid:
        allowed &= ~stat.S_IWGRP
    return f"can be written by others (chmod go-w {shlex.quote(folder)} ends that)" if writers & ~allowed else ""


@cache
def _warn_once(folder: str, problem: str) -> None:
    log.warning("%s is not used for compiled code, as it %s.", folder, problem)
