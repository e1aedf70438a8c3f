"""The state of a run, and the one file that holds it.

A checkpoint is a safetensors file with a checksum over everything in it. Nothing read here
can execute code, and a file that is torn or changed is refused, never loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distnum.common.arrays import Array
from distnum.common.version import __version__
from distnum.storage.files import CheckpointError, sealed, unsealed
from distnum.training.optimizers import OptimizerState

__all__ = ["State", "checkpoint_bytes", "frozen", "params_sha256", "read_checkpoint"]
_CHECKPOINT_FORMAT = "distnum-checkpoint-1"


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


def checkpoint_bytes(state: State, identity: Mapping[str, Any]) -> bytes:
    """A checkpoint in safetensors format, with a checksum over everything else in it."""
    tensors = {"params": state.params} | {f"optimizer.{name}": a for name, a in state.optimizer_state.items()}
    about = {
        "step": str(state.step),
        "rate_factor": repr(state.rate_factor),
        "config": json.dumps(dict(identity), sort_keys=True),
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
