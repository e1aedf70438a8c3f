"""Copies of folders that share nothing with the original."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

from distnum.common.errors import InputError

__all__ = ["check_copyable", "copy_into", "digest_of"]


def check_copyable(folder: Path) -> None:
    """Check that a folder can be copied: what ``copy_into`` would refuse is refused.

    Raises:
        InputError: It cannot be copied.
    """
    for path, names, files in os.walk(folder):
        for name in names + files:
            _kind(Path(path) / name, folder)


def copy_into(source: Path, target: Path, top: Path | None = None) -> None:
    """Copy the content of a folder into another, with times and permissions of the files.

    No link is followed. Links are copied if they stay inside.

    Args:
        source: The folder.
        target: An existing folder.
        top: The folder that links must not leave; by default ``source``.

    Raises:
        InputError: It holds a link that leads out of it, or something else than files and folders.
        OSError: It cannot be read, or ``target`` not written.
    """
    top = top or source
    with os.scandir(source) as entries:
        for entry in entries:
            path, copy = Path(entry.path), target / entry.name
            kind = _kind(path, top)
            if kind == "link":
                copy.symlink_to(os.readlink(path))
            elif kind == "folder":
                copy.mkdir(mode=0o700)
                copy_into(path, copy, top)
            else:
                shutil.copy2(path, copy, follow_symlinks=False)


def _kind(path: Path, top: Path) -> str:
    """Return ``"file"``, ``"folder"`` or ``"link"``, one that stays inside of ``top``."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISLNK(mode):
        raise InputError(f"{str(path)!r} is neither a file nor a folder; it cannot be copied.")
    to = os.readlink(path)
    as_written = os.path.normpath(os.path.join(os.path.dirname(path), to))
    as_followed = os.path.realpath(path)
    if (
        os.path.isabs(to)
        or not _is_in(as_written, os.path.normpath(top))
        or not _is_in(as_followed, os.path.realpath(top))
    ):
        raise InputError(
            f"{str(path)!r} is a link to {to!r}, outside of {str(top)!r}: all copies would share it. Replace it by "
            "what it links to, or name that by its full path where it is used."
        )
    return "link"


def _is_in(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def digest_of(path: Path) -> str:
    """Return a hash of the names and the content of a file or a folder."""
    digest = hashlib.sha256()
    inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in inside:
        name = one.relative_to(path).as_posix()
        digest.update(f"{name}\0{one.stat().st_size}\0".encode())
        with open(one, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
