"""The folder of a run: its configuration, rows, events, checkpoints, model and result.

``RunFolder`` knows all file names. All files but the two ``.jsonl`` files, which grow by whole lines, are replaced as a
whole, so that a reader never meets half a file. Reading them never executes code. A link or a named pipe in the place
of a file is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.text import json_text
from distnum.storage.checkpoints import Checkpoints, State
from distnum.storage.files import read_toml, remove_parts, write_error, write_toml, write_whole
from distnum.storage.local_folder import LocalFolder
from distnum.storage.mirror import Mirror
from distnum.storage.plain_files import append_to, read_plain
from distnum.storage.rows import StepRows
from distnum.storage.uris import is_uri

__all__ = ["RunFolder"]


class RunFolder:
    """The files of one run.

    ``create`` makes a new run and ``open`` continues an existing one; both lock the folder until ``close``. ``look``
    only reads. A run at a URI is a local folder that is mirrored there. Later writes raise a
    ``TrainingError`` if they fail; what was written before is then intact.

    Attributes:
        path: The local folder.
        location: The folder, or the URI that it is mirrored to.
        name: The same as text, for messages.
        rows: The rows of the steps, in ``metrics.jsonl``.
        checkpoints: The checkpoint files.
    """

    def __init__(self, store: LocalFolder | Mirror) -> None:
        path = store.folder
        self.path = path
        self.location: Path | str = store.location
        self.name = str(store.location)
        self.config_file = path / "config.toml"
        self.events_file = path / "events.jsonl"
        self.slices_folder = path / "unfinished"
        self.model_file = path / "model.safetensors"
        self.result_file = path / "result.json"
        self.rows = StepRows(path / "metrics.jsonl", self.name)
        self.checkpoints = Checkpoints(path / "checkpoints", self.name)
        self._store = store
        self._is_new = False

    # --- opening and closing ------------------------------------------------------

    @classmethod
    def create(cls, location: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """Make a new run with this configuration.

        Raises:
            InputError: The folder is not empty or cannot be written.
        """
        run = cls._at(location)
        try:
            run._check_empty()
            content = write_toml(config).encode()
            run._store.acquire()
            run._check_empty()  # another process may have made a run in between
            run.checkpoints.folder.mkdir()
            run._is_new = True
            write_whole(run.config_file, content)
            run.rows.open()
        except UnicodeEncodeError:
            raise InputError(f"config holds a path that is not UTF-8, {config.get('data')!a}.") from None
        except OSError as error:
            run.discard()
            raise InputError(f"out is {run.name!r}, where no run can be kept: {error.strerror or error}.") from None
        except InputError:
            run.discard()
            raise
        return run

    @classmethod
    def open(cls, location: str | Path) -> RunFolder:
        """Open an existing run to continue it.

        Raises:
            InputError: There is no run, it cannot be written, or another process is training in it.
        """
        run = cls._at(location)
        run._check_exists()
        subfolders = (run.checkpoints.folder, run.slices_folder)
        _check_not_linked(subfolders, run.name)
        try:
            run._store.acquire()
            run._fetch()
        except OSError as error:
            raise InputError(f"run {run.name!r} cannot be written: {error.strerror}.") from None
        for folder in (run.path, *subfolders):
            remove_parts(folder)
        return run

    @classmethod
    def look(cls, location: str | Path) -> RunFolder:
        """Open an existing run to read it, without a lock.

        Raises:
            InputError: There is no run, or it cannot be read.
        """
        run = cls._at(location)
        run._check_exists()
        try:
            run._fetch()
        except OSError as error:
            raise InputError(f"run {run.name!r} cannot be read: {error.strerror or error}.") from None
        return run

    @classmethod
    def _at(cls, location: str | Path) -> RunFolder:
        store = Mirror(str(location)) if is_uri(location) else LocalFolder(Path(location))
        run = cls(store)
        weakref.finalize(run, store.close)
        return run

    def _check_empty(self) -> None:
        if names := self._store.names():
            is_run = "config.toml" in names
            hint = f"continue it with: distnum resume {self.name}" if is_run else "choose another folder"
            raise InputError(f"out is {self.name!r}, which is not an empty folder; {hint}")

    def _check_exists(self) -> None:
        path = self.path
        try:
            exists = path.is_dir() and "config.toml" in self._store.names()
            problem = "has no config.toml" if path.is_dir() else "is not a folder" if path.exists() else "is not found"
        except OSError as error:
            exists, problem = False, f"cannot be read ({error.strerror})"
        if not exists:
            raise InputError(f"run {self.name!r} {problem}; name the folder that distnum train made.")

    def _fetch(self) -> None:
        self._store.fetch()
        if isinstance(self._store, Mirror):  # object stores have no empty folders
            self.checkpoints.folder.mkdir(exist_ok=True)

    def discard(self) -> None:
        """Remove what ``create`` made, unless a step, or a part of a long one, was done."""
        folder = self.checkpoints.folder
        has_checkpoint = self._is_new and folder.is_dir() and self.checkpoints.files()
        if self.rows.appended or has_checkpoint or _has_files(self.slices_folder):
            return
        self.close()
        if self._is_new:
            with contextlib.suppress(OSError):
                for file in (self.rows.file, self.events_file, self.config_file):
                    file.unlink(missing_ok=True)
                folder.rmdir()
        self._store.discard()

    def close(self) -> None:
        """Write what is not written yet, and release the lock."""
        self.rows.close()
        self._store.close(publish=self.rows.appended)

    def publish(self) -> None:
        """Copy new and changed files to the URI, if the run is mirrored to one."""
        self._store.publish()

    # --- content ------------------------------------------------------------------

    def config_values(self) -> dict[str, Any]:
        """Return the fields in ``config.toml``; raise an ``InputError`` if it cannot be read."""
        return read_toml(self.config_file, plain=True)

    def rewrite_config(self, values: Mapping[str, Any]) -> None:
        """Replace the fields in ``config.toml``."""
        self._write(self.config_file, write_toml(values).encode())

    def append_event(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``events.jsonl``."""
        try:
            with append_to(self.events_file) as file:
                file.write(json_text(row).encode() + b"\n")
        except OSError as error:
            raise write_error(self.events_file, error, self.name) from None

    def save_checkpoint(self, state: State, identity: Mapping[str, Any], keep: int, every: int = 1) -> None:
        """Flush the rows to the disk, save a checkpoint as ``Checkpoints.save`` does, and publish both."""
        self.rows.flush_to_disk()
        self.checkpoints.save(state, identity, keep, every)
        self.publish()

    def write_model(self, tensors: Mapping[str, Array], about: Mapping[str, str]) -> None:
        """Write the trained parameters by name, in safetensors format, and publish them."""
        from safetensors.numpy import save

        contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        self._write_end(self.model_file, save(contiguous, metadata=dict(about)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, and publish it."""
        self._write_end(self.result_file, (json_text(result, indent=2) + "\n").encode())

    def _write_end(self, path: Path, content: bytes) -> None:
        self.rows.write()
        self._write(path, content)
        self.publish()

    def result(self, n_steps: int) -> dict[str, Any] | None:
        """Return the content of ``result.json``; None unless the run has done ``n_steps`` steps and has its model."""
        try:
            result = json.loads(read_plain(self.result_file))
            n_done = result["steps"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        complete = self.model_file.is_file() and isinstance(n_done, int) and n_done >= n_steps
        return dict(result) if complete else None

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            raise write_error(path, error, self.name) from None


def _has_files(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:  # it is not there
        return False


def _check_not_linked(folders: Iterable[Path], run_name: str) -> None:
    """Refuse a run in whose folders, through a link, files of the user would be written and removed."""
    for folder in folders:
        if folder.is_symlink():
            raise InputError(
                f"run {run_name!r} has a folder {folder.name} that is a symbolic link, which is not followed; move the "
                "folder into the run. A link to the folder of the whole run can be used."
            )
