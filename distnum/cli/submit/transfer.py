"""What this side and the cluster's head agree on: where runs are kept, and how a run is packed into a job's log."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

from distnum.common.errors import TrainingError

__all__ = ["RUNS", "head_path", "on_head", "packed", "run_argument", "unpack"]

RUNS = "~/distnum-runs"
"""Folder on the head that holds runs with a relative name."""

_BEGIN, _END = "distnum-packed-begin", "distnum-packed-end"

# Python 3.10.12, 3.11.4 and 3.12 have it (PEP 706). Older ones rely on the check in ``unpack`` alone.
_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


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
    for position, argument in enumerate(command):
        if argument == "--out":
            return position + 1, "", command[position + 1]
        if argument.startswith("--out="):
            return position, "--out=", argument[len("--out=") :]
    return None


def on_head(command: list[str]) -> list[str]:
    """Return a command with its run's name replaced by the path on the head."""
    argument = run_argument(command)
    if argument is None:
        return command
    position, prefix, name = argument
    return [*command[:position], prefix + head_path(name), *command[position + 1 :]]


def packed(folder: str) -> str:
    """Return the files of a folder, without hidden ones, as lines of text with a checksum."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                archive.add(os.path.join(folder, name), name)
    archived = content.getvalue()
    lines = base64.encodebytes(archived).decode("ascii")
    return f"{_BEGIN} {hashlib.sha256(archived).hexdigest()}\n{lines}{_END}"


def unpack(log: str, to: Path) -> None:
    """Write the files that are packed in a job's log into a folder.

    Raises:
        TrainingError: They are not whole, cannot be written, or are more than plain files and folders below
            ``to``.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_archive(log)), mode="r:gz") as archive:
            for member in archive:
                plain = member.isfile() or member.isdir()
                if not plain or os.path.isabs(member.name) or ".." in Path(member.name).parts:
                    raise TrainingError(
                        f"The cluster sent {member.name!r}, which is refused: it is no plain file below the run's "
                        "folder."
                    )
            to.mkdir(parents=True, exist_ok=True)
            archive.extractall(to, **_FILTER)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise TrainingError(f"What came from the cluster is not whole ({error}); try again.") from None
    except OSError as error:
        raise TrainingError(f"{error.filename or to} cannot be written: {error.strerror}.") from None


def _archive(log: str) -> bytes:
    """The archive in a log; raises ``ValueError`` if it is not whole."""
    lines = log.splitlines()
    begin = next((at for at, line in enumerate(lines) if line.startswith(_BEGIN)), None)
    if begin is None or _END not in lines[begin:]:
        raise ValueError("it is cut short")
    content = base64.b64decode("".join(lines[begin + 1 : lines.index(_END, begin)]), validate=True)
    if hashlib.sha256(content).hexdigest() != lines[begin].split()[-1]:
        raise ValueError("its checksum differs")
    return content
