"""What is finished of a gradient that takes long, on disk until its step is done.

A step of an hour is not to be lost to a crash of the driver. Short steps never touch the
disk: nothing is written before a step has taken ``after_s`` seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.storage.checkpoints import params_sha256
from distnum.storage.files import CheckpointError, sealed, unsealed, write_whole
from distnum.workers.tiles import Shard, Tiles, positions_of
from distnum.workers.work import Objective

__all__ = ["UnfinishedStep"]
log = logging.getLogger("distnum")
_FORMAT = "distnum-slices-1"
_AFTER_S = 15.0


class UnfinishedStep:
    """Keeps slices in a folder.

    Args:
        folder: for them alone; made when the first is written.
        objective: whose gradient it is.
        deciding: what decides the gradient beside step and parameters.
        failed: is told what cannot be written.
        written: is told that something was.
        after_s: seconds of a step before anything of it is written, and between writing.
    """

    def __init__(
        self,
        folder: Path,
        objective: Objective,
        identity: Mapping[str, Any],
        failed: Callable[[Path, OSError], None],
        written: Callable[[], None] = lambda: None,
        after_s: float = _AFTER_S,
    ) -> None:
        self._folder = folder
        self._tiles: Tiles = objective.tiles
        self._order = objective.order
        self._identity = json.dumps(dict(identity), sort_keys=True)
        self._failed = failed
        self._tell_written = written
        self._after_s = after_s
        self._unwritten: list[Shard] = []
        self._about: dict[str, str] = {}
        self._params: Array | None = None
        self._written = 0.0
        self._n_files = 0
        self._looked = False

    def recall(self, step: int, params: Array, grad: Array) -> tuple[Shard, float | None]:
        """Put into ``grad`` what was kept of this step; returns which tiles that was, and the loss if it is known."""
        self._written = perf_counter()
        self._unwritten, self._params = [], params
        self._about = {"step": str(step), "config": self._identity}
        nothing = np.empty(0, np.int64)
        if self._looked:
            self.clear()
            return nothing, None
        self._looked = True
        found, loss = [nothing], None
        wanted = self._whole_about()
        for path in sorted(self._folder.glob("*.safetensors")) if self._folder.is_dir() else []:
            self._n_files += 1  # it is removed after this step, whatever it is
            try:
                tensors, about = unsealed(_FORMAT, path.read_bytes())
                told = about.pop("loss", None)
                about.pop("format", None)
                if about != wanted:
                    raise CheckpointError("it is of another step")
                shard, values = tensors["tiles"].astype(np.int64), tensors["values"]
                if shard.min() < 0 or shard.max() >= len(self._tiles) - 1:
                    raise CheckpointError("it is of another network")
                grad[positions_of(self._tiles, shard, self._order)] = values
            except (OSError, CheckpointError, KeyError, ValueError) as error:
                log.warning(f"{path} is passed over: {error}.")
                continue
            found.append(shard)
            loss = float(told) if told is not None else loss
        shard = np.unique(np.concatenate(found))
        if loss is None:
            shard = shard[1:]  # the loss comes with a slice that is still to be computed
        return shard, loss

    def finished(self, shard: Shard, grad: Array, loss: float | None) -> None:
        """A shard's part of ``grad`` is finished."""
        self._unwritten.append(shard)
        if perf_counter() - self._written < self._after_s:
            return
        shard = np.unique(np.concatenate(self._unwritten))
        values = grad[positions_of(self._tiles, shard, self._order)]
        if len(shard) == len(self._tiles) - 1:
            return  # the step is done
        about = self._whole_about() | ({} if loss is None else {"loss": repr(loss)})
        path = self._folder / f"{self._n_files + 1:06d}.safetensors"
        try:
            self._folder.mkdir(exist_ok=True)
            write_whole(path, sealed(_FORMAT, {"tiles": shard, "values": np.ascontiguousarray(values)}, about))
        except OSError as error:
            self._failed(path, error)
        else:
            self._n_files += 1
            self._unwritten = []
            self._tell_written()
        self._written = perf_counter()

    def _whole_about(self) -> dict[str, str]:
        """What a file of slices must say to be of this gradient."""
        assert self._params is not None
        return self._about | {"params_sha256": params_sha256(self._params)}

    def clear(self) -> None:
        """Remove what was kept: its step is done."""
        if not self._n_files:
            return
        self._n_files = 0
        for path in self._folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
