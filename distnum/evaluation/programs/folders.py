"""Working folders: a current directory of its own for each worker, or each evaluation.

A function that writes ``in.txt`` where it stands, calls a program and reads ``out.txt`` is wrong on two workers that
stand in the same folder: one reads what the other has written. Nothing fails.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distnum.common.checks import checked, choice, whole
from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.programs.attendant import guard, release
from distnum.evaluation.programs.copying import check_copyable, copy_into
from distnum.evaluation.programs.kept import FailedFolders

__all__ = ["WorkFolders"]


class WorkFolders:
    """Folders in which a function is called: each becomes the current directory while the function runs.

    They are made when a worker first needs one, can be entered by this user only, and are removed when ``close`` is
    called, when a worker ends, and also when it is killed.

    The current directory belongs to the whole process, so threads cannot have folders of their own: a second thread is
    refused.

    Args:
        template: Folder whose content each folder has at first; None for empty folders. Links in it must be relative,
            and stay inside of it.
        each: ``"worker"``: all evaluations of a worker use one folder, and find the files of earlier ones.
            ``"evaluation"``: each has a new one.
        keep: ``"none"``; ``"failed"``: the folders of evaluations that raised an exception are kept; ``"all"``.
        max_kept: With ``keep="failed"``, how many folders are kept on each machine, at least 2: the first half of them
            and the newest. ``failed.json`` next to them says how many evaluations have failed, and how many folders
            were removed.
        parent: Folder in which they are made; by default that for temporary files.

    Raises:
        InputError: An option cannot be used, or ``template`` holds something that cannot be copied.

    >>> folders = WorkFolders()
    >>> with folders, folders.entered(0) as folder:
    ...     _ = Path("in.txt").write_text("0.5")
    ...     sorted(os.listdir(folder))
    ['in.txt']
    """

    def __init__(
        self,
        template: str | os.PathLike[str] | None = None,
        *,
        each: str = "worker",
        keep: str = "none",
        max_kept: int = 20,
        parent: str | os.PathLike[str] | None = None,
    ) -> None:
        self.each = checked("each", each, choice("worker", "evaluation"))
        self.keep = checked("keep", keep, choice("none", "failed", "all"))
        self.max_kept: int = checked("max_kept", max_kept, whole(2))
        self._failed = FailedFolders(self.keep, "failed.json", self.max_kept)
        self.template = None if template is None else Path(template).absolute()
        if self.template is not None:
            if not self.template.is_dir():
                raise InputError(f"workdir is {str(template)!r}, which is no folder; it must be a folder to copy.")
            check_copyable(self.template)
        self._token = secrets.token_hex(8)
        self._base = (
            Path(tempfile.gettempdir() if parent is None else parent).absolute() / f"distnum-work-{self._token}"
        )
        self._guarded: int | None = None

    @classmethod
    def of(cls, workdir: Any) -> WorkFolders | None:
        """Return what the option ``workdir`` means: None, a template folder, or a ``WorkFolders``.

        Raises:
            InputError: It is something else.
        """
        if workdir is None or isinstance(workdir, cls):
            return workdir
        if isinstance(workdir, (str, os.PathLike)):
            return cls(workdir)
        raise InputError(f"workdir is {workdir!r:.60}; it must be a folder to copy, or a distnum.WorkFolders.")

    def __repr__(self) -> str:
        template = None if self.template is None else str(self.template)
        return f"WorkFolders({template!r}, each={self.each!r}, keep={self.keep!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_guarded": None}  # only the process that opened them closes them

    def __enter__(self) -> WorkFolders:
        """Have the folders of this machine removed at the end, or when this process is killed."""
        self._make_base()
        if self.keep == "none":
            self._guarded = guard(folder=str(self._base))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folders on this machine, except those to be kept; workers on others remove theirs as they end."""
        with _alone():
            _drop(self._token)
        if self.keep == "none":
            shutil.rmtree(self._base, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self._base.rmdir()
        if self._guarded is not None:
            release(self._guarded)
            self._guarded = None

    @contextlib.contextmanager
    def entered(self, number: int) -> Iterator[Path]:
        """Make a folder the current directory of this process in the ``with`` block.

        Args:
            number: Number of the evaluation, for the name of its folder.

        Raises:
            InputError: Another thread of this process is in a folder.
            TrainingError: The folder cannot be made.
        """
        with _alone():
            previous = os.getcwd()
            held = self._held(number)
            held.depth += 1
            failed = False
            try:
                yield held.path
            except (Exception, SystemExit) as error:
                if self.keep != "none" and held.depth == 1:
                    failed, sentence = self._failed.failed(held.path)
                    if hasattr(error, "add_note"):
                        error.add_note(sentence)
                raise
            finally:
                os.chdir(previous)
                held.depth -= 1
                if held.depth == 0 and (failed or self.each == "evaluation"):
                    _held.pop(self._token, None)
                    held.end(keep=failed or self.keep == "all")

    def _held(self, number: int) -> _Folder:
        """Enter the folder for an evaluation, and return it."""
        held = _held.get(self._token)
        if held is not None and (self.each == "worker" or held.depth > 0):
            with contextlib.suppress(FileNotFoundError):  # it was removed, perhaps by ``close`` in another process
                os.chdir(held.path)
                return held
        for token in [token for token, other in _held.items() if other.depth == 0]:
            _drop(token)
        held = self._new(number)
        _held[self._token] = held
        os.chdir(held.path)
        return held

    def _new(self, number: int) -> _Folder:
        path = None
        try:
            self._make_base()
            name = f"worker-{os.getpid()}-" if self.each == "worker" else f"evaluation-{number}-"
            path = Path(tempfile.mkdtemp(prefix=name, dir=self._base))
            # Guarded before it is filled: that may take long.
            folder = _Folder(path, self.keep, guard(folder=str(path)) if self.keep != "all" else None)
            if self.template is not None:
                copy_into(self.template, path)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            place = f"{str(error.filename)!r}: " if error.filename else ""
            raise TrainingError(
                f"The working folder {str(path or self._base)!r} cannot be made: {place}{error.strerror or error}."
            ) from None
        return folder

    def _make_base(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._base.parent.mkdir(parents=True, exist_ok=True)
            self._base.mkdir(mode=0o700)
        status = self._base.lstat()
        if not stat.S_ISDIR(status.st_mode) or (
            hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o077)
        ):
            raise TrainingError(f"The folder {str(self._base)!r} belongs to another user, or is open to others.")


@dataclass
class _Folder:
    """A working folder of this process.

    Attributes:
        path: The folder.
        keep: Which folders are kept.
        guarded: Key of ``guard``; None if it is kept.
        depth: Number of calls in it: a function may itself call others in working folders.
    """

    path: Path
    keep: str
    guarded: int | None
    depth: int = 0

    def end(self, keep: bool) -> None:
        """Remove the folder if it is not to be kept."""
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        if self.guarded is not None:
            release(self.guarded)


_held: dict[str, _Folder] = {}
"""Folders of this process, by the token of their ``WorkFolders``: at most one that is not in use."""

_lock = threading.RLock()


def _drop(token: str) -> None:
    """End a folder of this process that is not in use."""
    held = _held.get(token)
    if held is not None and held.depth == 0:
        del _held[token]
        held.end(keep=held.keep == "all")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second thread."""
    if not _lock.acquire(blocking=False):
        raise InputError(
            "workdir changes the current directory, which all threads of a process share; evaluate in processes, not "
            "in threads."
        )
    try:
        yield
    finally:
        _lock.release()


def _forget() -> None:
    """In a copy (fork) of this process, make other folders: those here are the other process's."""
    global _lock
    _held.clear()
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
