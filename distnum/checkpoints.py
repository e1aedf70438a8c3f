"""The state of a run, and the one file that holds it.

A checkpoint is a safetensors file with a checksum over everything in it. Nothing read here
can execute code, and a file that is torn or changed is refused, never loaded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distnum import __version__
from distnum.optimizers import OptimizerState

__all__ = [
    "CheckpointError",
    "State",
    "checkpoint_bytes",
    "frozen",
    "params_sha256",
    "read_checkpoint",
    "sealed",
    "unsealed",
    "write_whole",
]

Array = NDArray[np.floating]

_CHECKPOINT_FORMAT = "distnum-checkpoint-1"


class CheckpointError(ValueError):
    """A file is not a whole, unharmed checkpoint."""


@dataclass(frozen=True)
class State:
    """All that a run needs to go on: ``step`` steps have been done.

    Attributes:
        step: the last one's number.
        params, optimizer_state: after it.
        rate_factor: that learning rates are multiplied with, below 1 after a gradient was not finite.
    """

    step: int
    params: Array
    optimizer_state: OptimizerState
    rate_factor: float = 1.0


def params_sha256(params: Array) -> str:
    """SHA-256 of the parameters' bytes, little-endian, in their order."""
    return hashlib.sha256(params.astype(params.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def frozen(params: Array) -> Array:
    """The same parameters, read-only from now on."""
    params.flags.writeable = False
    return params


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is there, whole.

    On Linux nothing else is ever there either, where the file system allows it: the new file
    has no name before it is whole.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    folder = os.open(path.parent, os.O_RDONLY) if os.name == "posix" else None
    try:
        with _nameless(path.parent) or aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if folder is not None and not aside.exists():
                # With folders as descriptors the name below /proc is followed to the file.
                os.link(f"/proc/self/fd/{file.fileno()}", aside.name, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(aside, path)
        if folder is not None:
            os.fsync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    finally:
        if folder is not None:
            os.close(folder)


def _nameless(folder: Path) -> BinaryIO | None:
    """A new file without a name in a folder; None where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not Path("/proc/self/fd").exists():
        return None
    try:
        return os.fdopen(os.open(folder, flag | os.O_WRONLY, 0o666), "wb")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            return None
        raise


def checkpoint_bytes(state: State, deciding: Mapping[str, Any]) -> bytes:
    """A checkpoint in safetensors format, with a checksum over everything else in it."""
    tensors = {"params": state.params} | {f"optimizer.{name}": a for name, a in state.optimizer_state.items()}
    about = {
        "step": str(state.step),
        "rate_factor": repr(state.rate_factor),
        "config": json.dumps(dict(deciding), sort_keys=True),
        "distnum": __version__,
    }
    return sealed(_CHECKPOINT_FORMAT, tensors, about)


def read_checkpoint(content: bytes) -> tuple[State, dict[str, Any]]:
    """The state in a checkpoint, and the fields that decided it.

    Raises:
        CheckpointError: it is not one, is cut short, or a bit of it has changed.
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


def sealed(kind: str, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> bytes:
    """Arrays and texts in safetensors format, with a checksum over all of them."""
    from safetensors.numpy import save

    about = {"format": kind} | dict(about)
    return save(dict(tensors), metadata=about | {"sha256": _checksum(tensors, about)})


def unsealed(kind: str, content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What ``sealed`` was given.

    Raises:
        CheckpointError: it is not of this kind, is cut short, or a bit of it has changed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        n_header = int.from_bytes(content[:8], "little")
        if len(content) < 8 or n_header > len(content) - 8:
            raise CheckpointError("it is cut short")
        about = dict(json.loads(content[8 : 8 + n_header])["__metadata__"])
        if about.get("format") != kind:
            raise CheckpointError("it is not a checkpoint of this format")
        tensors = load(content)
        if about.pop("sha256", None) != _checksum(tensors, about):
            raise CheckpointError("its checksum is wrong")
        return tensors, about
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read ({str(error)[:80]})") from None


def _checksum(tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
