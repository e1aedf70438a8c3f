"""The state of a run, the checkpoint file that holds it, and the folder of these files.

A checkpoint is a safetensors file with a checksum over everything in it. Reading one never executes code, and a file
that is cut short or changed is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.version import __version__
from distnum.storage.files import CheckpointError, part_of, sealed, unsealed, write_error, write_whole
from distnum.storage.plain_files import read_plain

__all__ = ["Checkpoints", "State", "checkpoint_bytes", "frozen", "params_sha256", "read_checkpoint"]
_CHECKPOINT_FORMAT = "distnum-checkpoint-1"


@dataclass(frozen=True)
class State:
    """The state of a run after a step: with its configuration and data, all that is needed to continue it.

    Attributes:
        step: Number of steps done.
        params: Parameters after that step.
        optimizer_state: Arrays of the optimizer by name, after that step.
        rate_factor: Factor on the learning rate; below 1 after a gradient was not finite.
    """

    step: int
    params: Array
    optimizer_state: dict[str, Array]
    rate_factor: float = 1.0


def params_sha256(params: Array) -> str:
    """Return the SHA-256 of the parameters' bytes, in order and little-endian."""
    return hashlib.sha256(params.astype(params.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def frozen(params: Array) -> Array:
    """Make the parameters read-only and return them."""
    params.flags.writeable = False
    return params


def checkpoint_bytes(state: State, identity: Mapping[str, Any]) -> bytes:
    """Return a checkpoint in safetensors format.

    Args:
        state: The state to save.
        identity: The fields of the configuration that determine the result, and the checksum of the data.
    """
    tensors = {"params": state.params} | {f"optimizer.{name}": a for name, a in state.optimizer_state.items()}
    about = {
        "step": str(state.step),
        "rate_factor": repr(state.rate_factor),
        "config": json.dumps(dict(identity), sort_keys=True),
        "distnum": __version__,
    }
    return sealed(_CHECKPOINT_FORMAT, tensors, about)


def read_checkpoint(content: bytes) -> tuple[State, dict[str, Any]]:
    """Return the state and the identity that were given to ``checkpoint_bytes``.

    Raises:
        CheckpointError: The content is no checkpoint, is cut short, or has a changed bit.
    """
    tensors, about = unsealed(_CHECKPOINT_FORMAT, content)
    try:
        state = State(
            int(about["step"]),
            tensors["params"],
            {name.removeprefix("optimizer."): a for name, a in tensors.items() if name.startswith("optimizer.")},
            float(about.get("rate_factor", "1")),
        )
        return state, json.loads(about["config"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read ({str(error)[:80]})") from None


class Checkpoints:
    """The checkpoint files of a run, one for each saved step.

    Args:
        folder: The folder of the files.
        run_name: The run's folder or URI, for messages.
    """

    def __init__(self, folder: Path, run_name: str) -> None:
        self.folder = folder
        self._run_name = run_name

    def file(self, step: int) -> Path:
        """Return the path of a step's checkpoint."""
        return self.folder / f"step-{step:08d}.safetensors"

    def files(self) -> list[Path]:
        """Return the existing checkpoint files, newest step first.

        Raises:
            OSError: The folder cannot be read.
        """
        paths = [self.folder / name for name in os.listdir(self.folder)]
        numbered = [path for path in paths if _step_of(path) >= 0 and path.is_file()]
        return sorted(numbered, key=_step_of, reverse=True)

    def save(self, state: State, identity: Mapping[str, Any], keep: int, every: int = 1) -> Path:
        """Write a checkpoint to the disk, and remove older ones.

        The newest ``keep`` files stay, and the newest one whose step is a multiple of ``every``.

        Raises:
            TrainingError: The file cannot be written; the older ones are intact.
        """
        path = self.file(state.step)
        try:
            write_whole(path, checkpoint_bytes(state, identity))
            files = self.files()
            planned = [file for file in files if _step_of(file) % every == 0][:1]
            for old in files[keep:]:
                if old not in planned:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error, self._run_name) from None
        return path

    def at(self, step: int) -> State | None:
        """Return the state in the checkpoint of a step; None if it is missing or not valid."""
        try:
            return read_checkpoint(read_plain(self.file(step)))[0]
        except (OSError, CheckpointError):
            return None

    def latest(self) -> tuple[State, dict[str, Any], list[str]] | None:
        """Return the newest valid checkpoint's state and identity, and a remark on each newer file that is not valid.

        Returns:
            None if there are no checkpoints.

        Raises:
            InputError: The folder cannot be read, or none of the checkpoints is valid.
        """
        remarks: list[str] = []
        try:
            paths = self.files()
        except OSError as error:
            raise InputError(
                f"run {self._run_name!r} has a folder checkpoints that cannot be read ({error.strerror}); "
                "without it, the run cannot be continued."
            ) from None
        for path in paths:
            try:
                state, identity = read_checkpoint(read_plain(path))
                return state, identity, remarks
            except (OSError, CheckpointError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                remarks.append(f"checkpoint {path.name} is skipped: {reason}")
        if remarks:
            raise InputError(f"run {self._run_name!r} has no valid checkpoint left: {'; '.join(remarks)}")
        return None

    def seconds_to_save(self, state: State, identity: Mapping[str, Any]) -> float:
        """Measure the seconds that saving a checkpoint takes, by writing one and removing it."""
        started = perf_counter()
        trial = part_of(self.folder / "trial")  # removed with the next opening, if this process is killed
        with contextlib.suppress(OSError):  # the first real checkpoint reports it
            write_whole(trial, checkpoint_bytes(state, identity))
            trial.unlink()
        return perf_counter() - started


def _step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 if the name is not that of a checkpoint."""
    digits = path.name.removeprefix("step-").removesuffix(".safetensors")
    is_checkpoint = digits.isdecimal() and path.name == f"step-{digits}.safetensors"
    return int(digits) if is_checkpoint else -1
