"""What this side and the cluster's head agree on: where runs are kept, and how a run is packed into a job's log."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path

from distnum.common.errors import TrainingError
from distnum.common.text import first_line, printable

__all__ = ["MOST_PACKED", "RUNS", "head_path", "on_head", "packed", "run_argument", "unpack"]

RUNS = "~/distnum-runs"
"""Folder on the head that holds runs with a relative name."""

_BEGIN, _END = "distnum-packed-begin", "distnum-packed-end"

MOST_PACKED, MOST_UNPACKED, MOST_FILES = 256 * 2**20, 4 * 2**30, 10_000
"""The largest run that is fetched from a head: bytes of the archive and of its files, and number of files."""

_MOST = "it may have 256 MiB packed, 4 GiB unpacked and 10,000 files. Larger runs need --out URI"

# Bytes of the headers of one member, and of all: a usual header with a long name has 1.5 KiB.
_MOST_HEADER, _MOST_HEADERS = 64 * 2**10, 32 * 2**20


def head_path(name: str) -> str:
    """Return the path of a run on this machine, the head: relative names are below ``RUNS``; URIs stay as they are."""
    if "://" in name:
        return name
    return os.path.join(os.path.expanduser(RUNS), os.path.expanduser(name))


def run_argument(command: list[str]) -> tuple[int, str, str] | None:
    """Find the argument of a command that names its run.

    Returns:
        Its position, what precedes the name in it, and the name; None if there is none.

    >>> run_argument(["resume", "first", "--steps", "9"]), run_argument(["train", "--out=first"])
    ((1, '', 'first'), (1, '--out=', 'first'))
    """
    if command[0] == "resume":
        return 1, "", command[1]
    return _argument(command, "--out")


def _argument(command: list[str], option: str) -> tuple[int, str, str] | None:
    """Find the value of an option: its position, what precedes it in the argument there, and the value."""
    for position, argument in enumerate(command):
        if argument == option:
            return position + 1, "", command[position + 1]
        if argument.startswith(f"{option}="):
            return position, f"{option}=", argument[len(option) + 1 :]
    return None


def on_head(command: list[str]) -> list[str]:
    """Return a command with the names of its run and of its store replaced by their paths on the head."""
    words = list(command)
    for argument in (run_argument(command), _argument(command, "--store")):
        if argument is not None:
            position, prefix, name = argument
            words[position] = prefix + head_path(name)
    return words


def packed(folder: str) -> str:
    """Return the files of a folder, without hidden ones, as lines of text with a checksum.

    Raises:
        TrainingError: They are larger than ``unpack`` allows.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                archive.add(os.path.join(folder, name), name)
        sizes = [member.size for member in archive.getmembers()]
    archived = content.getvalue()
    if len(archived) > MOST_PACKED or sum(sizes) > MOST_UNPACKED or len(sizes) > MOST_FILES:
        raise TrainingError(f"the run in {folder} is too large to be fetched; {_MOST}.")
    lines = base64.encodebytes(archived).decode("ascii")
    return f"{_BEGIN} {hashlib.sha256(archived).hexdigest()}\n{lines}{_END}"


def unpack(log: str, to: Path) -> None:
    """Write the files that are packed in a job's log into a folder.

    The whole archive is checked before a file is written. Checking takes little memory, whatever the archive holds.

    Raises:
        TrainingError: They are not whole, cannot be written, are too large, or are more than plain files and folders
            below ``to``.
    """
    try:
        archived = _archive(log)
        _check(archived)
        to.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(archived), mode="r:gz") as archive:
            for member in archive:
                _write(archive, member, to)
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise TrainingError(f"What came from the cluster is not whole ({first_line(error)}); try again.") from None
    except OSError as error:
        raise TrainingError(f"{error.filename or to} cannot be written: {error.strerror or error}.") from None


def _archive(log: str) -> bytes:
    """The archive in a log; raises ``ValueError`` if it is not whole."""
    begin = re.search(rf"^{_BEGIN} ([0-9a-f]{{64}})\n", log, re.MULTILINE)
    end = log.find(_END, begin.end()) if begin else -1
    if begin is None or end < 0:
        raise ValueError("it is cut short")
    if (end - begin.end()) * 3 // 4 > MOST_PACKED * 1.02:  # base64 has line ends
        raise TrainingError(f"The cluster sent too large a run; {_MOST}.")
    content = base64.b64decode(log[begin.end() : end])
    if hashlib.sha256(content).hexdigest() != begin[1]:
        raise ValueError("its checksum differs")
    return content


def _check(archived: bytes) -> None:
    """Raise ``TrainingError`` if an archive is too large, or holds more than plain files and folders."""
    n_bytes, paths = 0, set()
    with (
        _Headers(fileobj=io.BytesIO(archived), mode="rb") as headers,
        tarfile.open(fileobj=headers, mode="r:") as archive,
    ):
        for member in archive:
            path = Path(member.name)
            plain = (member.isfile() or member.isdir()) and not member.issparse()
            below = path.parts and not path.anchor and ".." not in path.parts
            if not plain or not below or path in paths or printable(member.name) != member.name:
                raise TrainingError(
                    f"The cluster sent {member.name[:200]!r}, which is refused: it is no plain file below the run's "
                    "folder, or comes twice."
                )
            n_bytes += max(member.size, 0)
            paths.add(path)
            if n_bytes > MOST_UNPACKED or len(paths) > MOST_FILES:
                raise TrainingError(f"The cluster sent too large a run; {_MOST}.")
            headers.begin_member()


class _Headers(gzip.GzipFile):
    """An archive of which ``tarfile`` reads the headers only; it would read headers of any length into memory."""

    _n_left_in_all = _MOST_HEADERS
    _n_left = _MOST_HEADER

    def begin_member(self) -> None:
        self._n_left = _MOST_HEADER

    def read(self, size: int | None = -1) -> bytes:
        n_bytes = _MOST_HEADERS if size is None or size < 0 else size
        self._n_left -= n_bytes
        self._n_left_in_all -= n_bytes
        if min(self._n_left, self._n_left_in_all) < 0:
            raise TrainingError("The cluster sent an archive whose headers are too long; it is refused.")
        return super().read(n_bytes)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
    """Write one checked member below a folder. Owner, permissions and time of an archive are not taken over."""
    path = to / member.name
    content = archive.extractfile(member)
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
