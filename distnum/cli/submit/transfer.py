"""A run on its way from a cluster: packed and printed there, read and unpacked here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from pathlib import Path

from distnum.common.errors import TrainingError

__all__ = ["RUNS", "head_path", "packed", "unpack"]


RUNS = "~/distnum-runs"
"""Where runs are kept on the head, if nothing else is said."""


def head_path(name: str) -> str:
    """A folder on this machine: a name without a place is below ``RUNS``. A URI stays what it is."""
    if "://" in name:
        return name
    return os.path.join(os.path.expanduser(RUNS), os.path.expanduser(name))


_BEGIN, _END = "distnum-packed-begin", "distnum-packed-end"


def packed(folder: str) -> str:
    """The files of a folder, but for hidden ones, as lines of text with their checksum."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                archive.add(os.path.join(folder, name), name)
    archived = content.getvalue()
    lines = base64.encodebytes(archived).decode("ascii")
    return f"{_BEGIN} {hashlib.sha256(archived).hexdigest()}\n{lines}{_END}"


def unpack(log: str, to: Path) -> None:
    """Put into a folder what stands packed in a log: plain files and folders below it, nothing else.

    Raises:
        TrainingError: it is not whole, holds something else, or cannot be written.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_archive(log)), mode="r:gz") as archive:
            to.mkdir(parents=True, exist_ok=True)
            for member in archive:
                path = to / member.name
                if os.path.isabs(member.name) or ".." in Path(member.name).parts:
                    raise TrainingError(f"The cluster sent a file named {member.name!r}, which is refused.")
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif member.isfile():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = archive.extractfile(member)
                    path.write_bytes(b"" if file is None else file.read())
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, StopIteration) as error:
        told = " ".join(str(error).split()) or "it is cut short"
        raise TrainingError(f"What came from the cluster is not whole ({told}); try again.") from None
    except OSError as error:
        raise TrainingError(f"{error.filename or to} cannot be written: {error.strerror}.") from None


def _archive(log: str) -> bytes:
    """The archive in a log; raises ``StopIteration`` or ``ValueError`` if it is not whole."""
    lines = iter(log.splitlines())
    begin = next(line for line in lines if line.startswith(_BEGIN))
    content = base64.b64decode("".join(iter(lambda: next(lines), _END)), validate=True)
    if hashlib.sha256(content).hexdigest() != begin.split()[-1]:
        raise ValueError("its checksum is another")
    return content
