"""The state of a run, and the one file that holds it.

A checkpoint is a safetensors file with a checksum over everything in it. Nothing read here
can execute code, and a file that is torn or changed is refused, never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum import __version__
from distnum.optimizers import OptimizerState

__all__ = ["CheckpointError", "State", "checkpoint_bytes", "frozen", "params_sha256", "read_checkpoint", "write_whole"]

Array = NDArray[np.floating]

_CHECKPOINT_FORMAT = "distnum-checkpoint-1"


class CheckpointError(ValueError):
    """A file is not a whole, unharmed checkpoint."""


@dataclass(frozen=True)
class State:
    """All that a run needs to go on: ``step`` updates have been applied."""

    step: int
    params: Array
    optimizer_state: OptimizerState


def params_sha256(params: Array) -> str:
    """SHA-256 of the parameters' bytes, little-endian, in their order."""
    return hashlib.sha256(params.astype(params.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def frozen(params: Array) -> Array:
    """The same parameters, read-only from now on."""
    params.flags.writeable = False
    return params


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is there, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def checkpoint_bytes(state: State, deciding: Mapping[str, Any]) -> bytes:
    """A checkpoint in safetensors format, with a checksum over everything else in it."""
    from safetensors.numpy import save

    tensors = {"params": state.params} | {f"optimizer.{name}": a for name, a in state.optimizer_state.items()}
    about = {
        "format": _CHECKPOINT_FORMAT,
        "step": str(state.step),
        "config": json.dumps(dict(deciding), sort_keys=True),
        "distnum": __version__,
    }
    return save(tensors, metadata=about | {"sha256": _checksum(tensors, about)})


def read_checkpoint(content: bytes) -> tuple[State, dict[str, Any]]:
    """The state in a checkpoint, and the fields that decided it.

    Raises:
        CheckpointError: it is not one, is cut short, or a bit of it has changed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        n_header = int.from_bytes(content[:8], "little")
        if len(content) < 8 or n_header > len(content) - 8:
            raise CheckpointError("it is cut short")
        about = dict(json.loads(content[8 : 8 + n_header])["__metadata__"])
        if about.get("format") != _CHECKPOINT_FORMAT:
            raise CheckpointError("it is not a checkpoint of this format")
        tensors = load(content)
        if about.pop("sha256", None) != _checksum(tensors, about):
            raise CheckpointError("its checksum is wrong")
        state = State(
            int(about["step"]),
            tensors["params"],
            {name.removeprefix("optimizer."): a for name, a in tensors.items() if name.startswith("optimizer.")},
        )
        return state, json.loads(about["config"])
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read ({str(error)[:80]})") from None


def _checksum(tensors: Mapping[str, Array], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
