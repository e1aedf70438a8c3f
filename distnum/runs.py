"""A run's folder: its configuration, a row for each step, checkpoints, the model, the result.

All file names live in ``RunFolder``. Everything written whole is written beside its final
name, flushed to the disk and moved over it, so a reader never meets half a file. Nothing
read from here can execute code.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from distnum import __version__
from distnum.checkpoints import CheckpointError, State, checkpoint_bytes, read_checkpoint, write_whole
from distnum.config import Config, read_toml, write_toml
from distnum.errors import InputError, TrainingError

__all__ = ["RunFolder", "config_of", "machine_facts", "version_facts"]

Array = NDArray[np.floating]


class RunFolder:
    """The files of one run.

    Use ``create`` for a new run and ``open`` for one that exists; both take the folder for
    this process alone until ``close``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: TextIO | None = None
        self._lock: Any = None
        self._made_folders: list[Path] = []

    # --- names --------------------------------------------------------------------

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

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
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Make a new run folder.

        Raises:
            InputError: something is there already, or the folder cannot be written.
        """
        run = cls(path)
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                hint = f"continue it with: distnum resume {path}" if run.config_file.exists() else "name another folder"
                raise InputError(f"out is {str(path)!r}, which exists and is not an empty folder; {hint}")
            run._made_folders = [
                folder for folder in (run.checkpoint_folder, path, *path.parents) if not folder.exists()
            ]
            content = write_toml(config).encode()
            run.checkpoint_folder.mkdir(parents=True)
            write_whole(run.config_file, content)
            run._take()
            run._metrics = run.metrics_file.open("a", encoding="utf-8")
        except UnicodeEncodeError:
            raise InputError(f"config holds a path that is not UTF-8, {config.get('data')!a}.") from None
        except OSError as error:
            run.discard()
            raise InputError(f"out is {str(path)!r}, where no run can be kept: {error.strerror or error}.") from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run to continue it.

        Raises:
            InputError: there is no run, or another process is at work on it.
        """
        run = cls.look(path)
        run._take()
        return run

    @classmethod
    def look(cls, path: Path) -> RunFolder:
        """An existing run, to read from."""
        run = cls(path)
        try:
            found = run.config_file.is_file()
            what = "has no config.toml" if path.is_dir() else "is not a folder" if path.exists() else "is not found"
        except OSError as error:
            found, what = False, f"cannot be read ({error.strerror})"
        if not found:
            raise InputError(f"run {str(path)!r} {what}; name the folder that distnum train made.")
        return run

    def _take(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            self._lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise InputError(f"run {str(self.path)!r} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(f"run {str(self.path)!r} is in use: another distnum process is training in it.") from None

    def discard(self) -> None:
        """Remove what ``create`` made: the run could not begin. A run with a checkpoint stays."""
        if not self._made_folders or self._checkpoints():
            return
        self.close()
        for file in (self.metrics_file, self.config_file, self.path / ".lock"):
            with contextlib.suppress(OSError):  # it was never made
                file.unlink()
        for folder in self._made_folders:
            with contextlib.suppress(OSError):  # somebody has put something there
                folder.rmdir()

    def close(self) -> None:
        for file in (self._metrics, self._lock):
            if file is not None:
                # Rows that a full disk did not take have been reported; they are computed again.
                with contextlib.suppress(OSError):
                    file.close()
        self._metrics = self._lock = None

    def config_values(self) -> dict[str, Any]:
        """What stands in ``config.toml``."""
        return read_toml(self.config_file)

    def rewrite_config(self, values: Mapping[str, Any]) -> None:
        """Put other values into ``config.toml``."""
        try:
            write_whole(self.config_file, write_toml(values).encode())
        except OSError as error:
            raise _not_written(self.config_file, error) from None

    @property
    def complete(self) -> bool:
        """Whether all the steps that the configuration asks for are in a result with its model."""
        try:
            done = json.loads(self.result_file.read_bytes())["steps"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        steps = self.config_values().get("steps", Config().steps)
        return self.model_file.is_file() and isinstance(done, int) and done >= steps

    # --- rows ---------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a step's row to ``metrics.jsonl``."""
        assert self._metrics is not None
        try:
            self._metrics.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _not_written(self.metrics_file, error) from None

    def rows(self) -> list[dict[str, Any]]:
        """The rows written so far; a last line cut short is left out."""
        rows = list(_read_rows(self.metrics_file))
        for row in rows:
            for name in ("loss", "test_accuracy"):
                if not isinstance(row.get(name, None if name == "loss" else 0.0), (int, float)):
                    raise InputError(
                        f"{self.metrics_file} has a row of step {row['step']} whose {name} is {row.get(name)!r}; "
                        "it must be a number."
                    )
        return rows

    def continue_rows(self, step: int) -> list[dict[str, Any]]:
        """Keep the rows up to a step, drop the later ones, and go on writing after them."""
        try:
            kept = [row for row in _read_rows(self.metrics_file) if row["step"] <= step]
            write_whole(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept).encode())
            self._metrics = self.metrics_file.open("a", encoding="utf-8")
        except OSError as error:
            raise _not_written(self.metrics_file, error) from None
        return kept

    # --- checkpoints --------------------------------------------------------------

    def save_checkpoint(self, state: State, deciding: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint and the rows so far to the disk; remove all but the newest ``keep``."""
        path = self.checkpoint_file(state.step)
        try:
            if self._metrics is not None:
                self._metrics.flush()
                os.fsync(self._metrics.fileno())
            write_whole(path, checkpoint_bytes(state, deciding))
            for old in self._checkpoints()[keep:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(path, error) from None
        return path

    def _checkpoints(self) -> list[Path]:
        """The checkpoint files, newest first."""
        numbered = []
        for path in self.checkpoint_folder.glob("step-*.safetensors"):
            digits = path.stem.removeprefix("step-")
            if digits.isdecimal():
                numbered.append((int(digits), path))
        return [path for _, path in sorted(numbered, reverse=True)]

    def latest_checkpoint(self) -> tuple[State, dict[str, Any], list[str]] | None:
        """The newest valid checkpoint, what was decided then, and a note on each that was passed over."""
        if not self.checkpoint_folder.is_dir():
            raise InputError(
                f"run {str(self.path)!r} has lost its folder checkpoints; without it, it must be begun anew."
            )
        notes: list[str] = []
        for path in self._checkpoints():
            try:
                state, deciding = read_checkpoint(path.read_bytes())
                return state, deciding, notes
            except (OSError, CheckpointError) as error:
                notes.append(f"checkpoint {path.name} is passed over: {error}")
        if notes:
            raise InputError(f"run {str(self.path)!r} has no valid checkpoint left: {'; '.join(notes)}")
        return None

    # --- the end ------------------------------------------------------------------

    def write_model(self, tensors: Mapping[str, Array], about: Mapping[str, str]) -> None:
        """The trained parameters by name, in safetensors format."""
        from safetensors.numpy import save

        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        self._write_end(self.model_file, save(contiguous, metadata=dict(about)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_end(self.result_file, (json.dumps(result, indent=2) + "\n").encode())

    def _write_end(self, path: Path, content: bytes) -> None:
        try:
            if self._metrics is not None:
                self._metrics.flush()
            write_whole(path, content)
        except OSError as error:
            raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> TrainingError:
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return TrainingError(
        f"{path} cannot be written: {error.strerror or error}. What was written before is intact; "
        f"make room and continue with: distnum resume {folder}"
    )


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    return  # cut short by a crash; what follows cannot be older
                if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                    return
                yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def version_facts() -> dict[str, str]:
    """Versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"distnum": __version__, "python": platform.python_version(), "numpy": np.__version__}
    with contextlib.suppress(PackageNotFoundError):
        found["ray"] = version("ray")
    return found


def machine_facts() -> dict[str, Any]:
    """What the driver runs on."""
    facts: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        facts["cpu"] = names[0] if names else platform.processor()
    return facts


def config_of(values: Mapping[str, Any], source: str) -> Config:
    """The configuration in the values of a TOML file."""
    return Config().with_changes(values, f"{source}: ")
