"""A run's folder: its configuration, a row for each step, checkpoints, the model, the result.

All file names live in ``RunFolder``. Everything written whole is written beside its final
name, flushed to the disk and moved over it, so a reader never meets half a file. Nothing
read from here can execute code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import json_text
from distnum.storage.checkpoints import State, checkpoint_bytes, read_checkpoint
from distnum.storage.files import CheckpointError, read_toml, write_toml, write_whole
from distnum.storage.mirror import Mirror
from distnum.storage.uris import is_uri
from distnum.training.config import config_of

__all__ = ["RunFolder"]
log = logging.getLogger("distnum")
_ROWS_EVERY_S = 1.0
_LOCK = ".lock"
_ROW_NUMBERS = ("loss", "compute_s", "dispatch_gather_s", "update_s")


class RunFolder:
    """The files of one run.

    Use ``create`` for a new run and ``open`` for one that exists; both take the folder for
    this process alone until ``close``. A place may be a URI: then the folder is one here,
    mirrored there.
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self.path = path
        self._mirror = mirror
        self._metrics: BinaryIO | None = None
        self._unwritten: list[bytes] = []
        self._written = 0.0
        self._lock: Any = None
        self._made_folders: list[Path] = []
        self._begun = False

    # --- names --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the user calls it: its folder or its URI."""
        return str(self.location)

    @property
    def location(self) -> Path | str:
        """The folder, or the URI that it is mirrored to."""
        return self.path if self._mirror is None else self._mirror.uri

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def slices_folder(self) -> Path:
        return self.path / "unfinished"

    @property
    def checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model_file(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    def checkpoint_file(self, step: int) -> Path:
        return self.checkpoint_folder / f"step-{step:08d}.safetensors"

    # --- opening ------------------------------------------------------------------

    @classmethod
    def create(cls, place: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """Make a new run folder.

        Raises:
            InputError: something is there already, or the folder cannot be written.
        """
        run = cls._at(place)
        path = run.path
        try:
            if run._mirror is not None:
                run._mirror.take()
            run._refuse_content()
            run._made_folders = [
                folder for folder in (run.checkpoint_folder, path, *path.parents) if not folder.exists()
            ]
            content = write_toml(config).encode()
            path.mkdir(parents=True, exist_ok=True)
            run._take()
            run._refuse_content()  # another process may have been quicker
            run.checkpoint_folder.mkdir()
            write_whole(run.config_file, content)
            run._metrics = run.metrics_file.open("ab", buffering=0)
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
    def _at(cls, place: str | Path) -> RunFolder:
        if not is_uri(place):
            return cls(Path(place))
        mirror = Mirror(str(place))
        run = cls(mirror.folder, mirror)
        weakref.finalize(run, mirror.close)
        return run

    def _refuse_content(self) -> None:
        if self._mirror is not None:
            if names := self._mirror.names():
                begun = "config.toml" in names
                hint = f"continue it with: distnum resume {self.name}" if begun else "name another place"
                raise InputError(f"out is {self.name!r}, where something is; {hint}")
            return
        if self.path.exists() and (not self.path.is_dir() or any(entry.name != _LOCK for entry in self.path.iterdir())):
            begun = self.config_file.exists()
            hint = f"continue it with: distnum resume {self.path}" if begun else "name another folder"
            self._made_folders = []  # what is there is not ours
            raise InputError(f"out is {str(self.path)!r}, which exists and is not an empty folder; {hint}")

    @classmethod
    def open(cls, place: str | Path) -> RunFolder:
        """Open an existing run to continue it.

        Raises:
            InputError: there is no run, or another process is at work on it.
        """
        run = cls._at(place)
        if run._mirror is not None:
            run._mirror.take()
        run._look()
        run._take()
        for folder in (run.path, run.checkpoint_folder):
            for left in folder.glob(".*.part"):  # by a process that was killed while it wrote
                with contextlib.suppress(OSError):
                    left.unlink()
        return run

    @classmethod
    def look(cls, place: str | Path) -> RunFolder:
        """An existing run, to read from."""
        run = cls._at(place)
        run._look()
        return run

    def _look(self) -> None:
        path = self.path
        try:
            if self._mirror is not None:
                self._mirror.fetch()
                self.checkpoint_folder.mkdir(exist_ok=True)
            found = self.config_file.is_file()
            what = "has no config.toml" if path.is_dir() else "is not a folder" if path.exists() else "is not found"
        except OSError as error:
            found, what = False, f"cannot be read ({error.strerror})"
        if not found:
            raise InputError(f"run {self.name!r} {what}; name the folder that distnum train made.")

    def _take(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            self._lock = (self.path / _LOCK).open("a")
        except OSError as error:
            raise InputError(f"run {self.name!r} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock, self._made_folders = None, []  # what is there is another process's
            raise InputError(f"run {self.name!r} is in use: another distnum process is training in it.") from None

    def discard(self) -> None:
        """Remove what ``create`` made: the run could not begin. A run that has done a step stays."""
        if self._mirror is not None and not self._begun:
            self.close()
            return
        if not self._made_folders or self._begun or (self.checkpoint_folder.is_dir() and self._checkpoints()):
            return
        self.close()
        for file in (self.metrics_file, self.events_file, self.config_file, self.path / _LOCK):
            with contextlib.suppress(OSError):  # it was never made
                file.unlink()
        for folder in self._made_folders:
            with contextlib.suppress(OSError):  # somebody has put something there
                folder.rmdir()

    def close(self) -> None:
        if self._metrics is not None and self._unwritten:
            # Rows that a full disk does not take have been reported; they are computed again.
            with contextlib.suppress(TrainingError):
                self.write_rows()
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()
        self._metrics = self._lock = None
        if self._mirror is not None:
            if self._begun:
                try:
                    self.publish()
                except TrainingError as error:
                    kept = self._mirror.keep_folder()
                    log.warning("%s%s", error, f" What is not there is kept in {kept}." if kept else "")
            self._mirror.close()

    def publish(self) -> None:
        """Put what is finished to where the run is mirrored."""
        if self._mirror is not None:
            try:
                self._mirror.publish()
            except OSError as error:
                raise TrainingError(
                    f"{self.name} cannot be written: {error.strerror}. What was written before is intact; continue "
                    f"with: distnum resume {self.name}"
                ) from None

    def _not_written(self, path: Path, error: OSError) -> TrainingError:
        return TrainingError(
            f"{path} cannot be written: {error.strerror or error}. What was written before is intact; "
            f"make room and continue with: distnum resume {self.name}"
        )

    def config_values(self) -> dict[str, Any]:
        """What stands in ``config.toml``."""
        return read_toml(self.config_file)

    def rewrite_config(self, values: Mapping[str, Any]) -> None:
        """Put other values into ``config.toml``."""
        try:
            write_whole(self.config_file, write_toml(values).encode())
        except OSError as error:
            raise self._not_written(self.config_file, error) from None

    def result(self) -> dict[str, Any] | None:
        """What stands in ``result.json``, if the run has all its steps and its model."""
        try:
            found = json.loads(self.result_file.read_bytes())
            done = found["steps"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        values = {name: value for name, value in self.config_values().items() if name != "objective"}
        steps = config_of(values, str(self.config_file)).steps
        complete = self.model_file.is_file() and isinstance(done, int) and done >= steps
        return dict(found) if complete else None

    # --- rows ---------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a step's row to ``metrics.jsonl``, where it stands within a second or so."""
        self._begun = True
        self._unwritten.append(json_text(row).encode() + b"\n")
        if perf_counter() - self._written > _ROWS_EVERY_S:
            self.write_rows()

    def write_rows(self) -> None:
        """Write the rows that are not written yet; what cannot be written is tried again the next time."""
        assert self._metrics is not None
        self._written = perf_counter()
        content = b"".join(self._unwritten)
        before = self._metrics.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._metrics.write(content) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._metrics.truncate(before)  # no half of a row stays
            raise self._not_written(self.metrics_file, error) from None
        self._unwritten = []

    def append_event(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``events.jsonl``."""
        try:
            with self.events_file.open("ab") as file:
                file.write(json_text(row).encode() + b"\n")
        except OSError as error:
            raise self._not_written(self.events_file, error) from None

    def rewrite_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put these rows into ``metrics.jsonl`` in place of those there."""
        assert self._metrics is not None
        self._unwritten = []
        try:
            write_whole(self.metrics_file, b"".join(json_text(row).encode() + b"\n" for row in rows))
            self._metrics.close()
            self._metrics = self.metrics_file.open("ab", buffering=0)
        except OSError as error:
            raise self._not_written(self.metrics_file, error) from None

    def rows(self) -> list[dict[str, Any]]:
        """The rows written so far; a last line cut short is left out.

        Raises:
            InputError: the file cannot be read, or a line in it is not a row of a step.
        """
        return [self._row(number, line) for number, line in enumerate(self._lines(), start=1)]

    def continue_rows(self, step: int) -> list[dict[str, Any]]:
        """The rows up to a step; the later ones are dropped, as they are computed again. Opens the file to go on.

        A line that is not a row stays where it is, with a warning.
        """
        lines = self._lines()
        rows: list[dict[str, Any]] = []
        n_kept = 0
        for number, line in enumerate(lines, start=1):
            try:
                row = self._row(number, line)
            except InputError as error:
                log.warning("%s It is passed over.", error)
                continue
            if rows and row["step"] <= rows[-1]["step"]:
                log.warning(
                    f"{self.metrics_file} has a line {number} that says again what step {row['step']} was. "
                    "It is passed over."
                )
            elif row["step"] <= step:
                rows.append(row)
                n_kept = number
        if len(rows) < step:
            log.warning(
                f"{self.metrics_file} has rows of {len(rows):,} of the {step:,} steps done; the others are lost."
            )
        try:
            write_whole(self.metrics_file, b"".join(line + b"\n" for line in lines[:n_kept]))
            self._metrics = self.metrics_file.open("ab", buffering=0)
        except OSError as error:
            raise self._not_written(self.metrics_file, error) from None
        return rows

    @property
    def n_rows(self) -> int:
        """How many lines ``metrics.jsonl`` has."""
        return len(self._lines())

    def _lines(self) -> list[bytes]:
        """The lines of ``metrics.jsonl``, without a last one that a crash cut short."""
        try:
            lines = self.metrics_file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.metrics_file} cannot be read: {error.strerror or error}.") from None
        return lines[:-1]

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        where = f"{self.metrics_file} has a line {number} that is not a row of a step"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{where}: {line[:40]!r}.") from None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise InputError(f"{where}: it has no whole number 'step'.")
        if row.get("skipped") is True:
            row |= {"loss": math.nan, "grad_norm": math.nan}
        for name in _ROW_NUMBERS + (("test_accuracy",) if "test_accuracy" in row else ()):
            if type(row.get(name)) not in (int, float):
                raise InputError(f"{where}: its {name!r} is {row.get(name)!r:.40}; it must be a number.")
        return row

    # --- checkpoints --------------------------------------------------------------

    def save_checkpoint(self, state: State, identity: Mapping[str, Any], keep: int, every: int = 1) -> Path:
        """Write a checkpoint and the rows so far to the disk; remove older ones.

        The newest ``keep`` stay, and the newest one of a step that is a multiple of ``every``.
        """
        path = self.checkpoint_file(state.step)
        try:
            if self._metrics is not None:
                os.fsync(self._metrics.fileno())
            write_whole(path, checkpoint_bytes(state, identity))
            there = self._checkpoints()
            planned = [one for one in there if self._step_of(one) % every == 0][:1]
            for old in there[keep:]:
                if old not in planned:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise self._not_written(path, error) from None
        self.publish()
        return path

    def checkpoint_at(self, step: int) -> State | None:
        """The state in the checkpoint of a step; None if it is not there, or not valid."""
        try:
            return read_checkpoint(self.checkpoint_file(step).read_bytes())[0]
        except (OSError, CheckpointError):
            return None

    def seconds_to_save(self, state: State, identity: Mapping[str, Any]) -> float:
        """What a checkpoint takes, from writing one that is not kept."""
        started = perf_counter()
        trial = self.path / ".trial"
        with contextlib.suppress(OSError):  # a disk that cannot be written to is met again, and named then
            write_whole(trial, checkpoint_bytes(state, identity))
            trial.unlink()
        return perf_counter() - started

    def _checkpoints(self) -> list[Path]:
        """The checkpoint files, newest first."""
        paths = [self.checkpoint_folder / name for name in os.listdir(self.checkpoint_folder)]
        numbered = [path for path in paths if self._step_of(path) >= 0 and path.is_file()]
        return sorted(numbered, key=self._step_of, reverse=True)

    @staticmethod
    def _step_of(path: Path) -> int:
        """The step that a checkpoint's name says; -1 if it is no such name."""
        digits = path.name.removeprefix("step-").removesuffix(".safetensors")
        named = digits.isdecimal() and path.name == f"step-{digits}.safetensors"
        return int(digits) if named else -1

    def latest_checkpoint(self) -> tuple[State, dict[str, Any], list[str]] | None:
        """The newest valid checkpoint, what was decided then, and a note on each that was passed over.

        Raises:
            InputError: they cannot be read, or none of them is valid.
        """
        notes: list[str] = []
        try:
            paths = self._checkpoints()
        except OSError as error:
            raise InputError(
                f"run {self.name!r} has a folder checkpoints that cannot be read ({error.strerror}); "
                "without it, the run must be begun anew."
            ) from None
        for path in paths:
            try:
                state, identity = read_checkpoint(path.read_bytes())
                return state, identity, notes
            except (OSError, CheckpointError) as error:
                notes.append(f"checkpoint {path.name} is passed over: {error}")
        if notes:
            raise InputError(f"run {self.name!r} has no valid checkpoint left: {'; '.join(notes)}")
        return None

    # --- the end ------------------------------------------------------------------

    def write_model(self, tensors: Mapping[str, Array], about: Mapping[str, str]) -> None:
        """The trained parameters by name, in safetensors format."""
        from safetensors.numpy import save

        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        self._write_end(self.model_file, save(contiguous, metadata=dict(about)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_end(self.result_file, (json_text(result, indent=2) + "\n").encode())

    def _write_end(self, path: Path, content: bytes) -> None:
        if self._metrics is not None:
            self.write_rows()
        try:
            write_whole(path, content)
        except OSError as error:
            raise self._not_written(path, error) from None
        self.publish()
