"""Finished slices of a long step, kept on the disk until the step is done.

A crash of the driver must not lose a step of an hour. Short steps never touch the disk:
nothing is written before a step has taken ``after_s`` seconds.
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
from distnum.storage.plain_files import read_plain
from distnum.workers.tiles import Shard, Tiles, positions_of
from distnum.workers.work import Work

__all__ = ["UnfinishedStep"]

log = logging.getLogger("distnum")

_FORMAT = "distnum-slices-1"
_AFTER_S = 15.0


class UnfinishedStep:
    """Keeps the finished slices of the current step in a folder; see ``KeptSlices``.

    Args:
        folder: Folder for the slices alone; made when the first one is written.
        work: What is computed.
        identity: What decides the answers besides step and parameters.
        failed: Called with a file that cannot be written, and the error.
        written: Called when a file has been written.
        after_s: Seconds from the start of a step to the first file, and between files.
    """

    def __init__(
        self,
        folder: Path,
        work: Work,
        identity: Mapping[str, Any],
        failed: Callable[[Path, OSError], None],
        written: Callable[[], None] = lambda: None,
        after_s: float = _AFTER_S,
    ) -> None:
        self._folder = folder
        self._tiles: Tiles = work.tiles
        self._order = work.order
        self._identity = json.dumps(dict(identity), sort_keys=True)
        self._failed = failed
        self._on_written = written
        self._after_s = after_s
        self._unwritten: list[Shard] = []
        self._step = 0
        self._params: Array | None = None
        self._written = 0.0
        self._n_files = 0
        self._looked = False

    def recall(self, step: int, params: Array, answers: Array) -> tuple[Shard, float | None]:
        """Write the kept slices of this step into ``answers``; return their tiles, and the loss if it is known.

        Only the first call reads the folder: later steps begin in this process.
        """
        self._written = perf_counter()
        self._unwritten, self._step, self._params = [], step, params
        shards, loss = [np.empty(0, np.int64)], None
        if self._looked:
            self.clear()
            return shards[0], None
        self._looked = True
        for path in sorted(self._folder.glob("*.safetensors")) if self._folder.is_dir() else []:
            self._n_files += 1  # removed after this step, whatever it holds
            try:
                shard, values, kept_loss = self._read(path)
                answers[positions_of(self._tiles, shard, self._order)] = values
            except (OSError, CheckpointError, KeyError, ValueError) as error:
                log.warning(f"{path} is passed over: {error}.")
                continue
            shards.append(shard)
            loss = loss if kept_loss is None else kept_loss
        shard = np.unique(np.concatenate(shards))
        if loss is None:
            shard = shard[1:]  # one tile must be computed, as the loss comes with it
        return shard, loss

    def _read(self, path: Path) -> tuple[Shard, Array, float | None]:
        """Tiles, answers and loss in a file.

        Raises:
            CheckpointError: The file is damaged, or belongs to another step or network.
        """
        tensors, header = unsealed(_FORMAT, read_plain(path))
        loss = header.pop("loss", None)
        header.pop("format", None)
        if header != self._header():
            raise CheckpointError("it is of another step")
        shard = tensors["tiles"].astype(np.int64)
        if shard.ndim != 1 or shard.min() < 0 or shard.max() >= len(self._tiles) - 1:
            raise CheckpointError("it is of another network")
        return shard, tensors["values"], None if loss is None else float(loss)

    def finished(self, shard: Shard, answers: Array, value: float | None) -> None:
        """Note that a shard's slice of ``answers`` is finished; write all new slices if it is time."""
        self._unwritten.append(shard)
        if perf_counter() - self._written < self._after_s:
            return
        shard = np.unique(np.concatenate(self._unwritten))
        if len(shard) == len(self._tiles) - 1:
            return  # the step is done
        values = np.ascontiguousarray(answers[positions_of(self._tiles, shard, self._order)])
        header = self._header() | ({} if value is None else {"loss": repr(value)})
        path = self._folder / f"{self._n_files + 1:06d}.safetensors"
        try:
            self._folder.mkdir(exist_ok=True)
            write_whole(path, sealed(_FORMAT, {"tiles": shard, "values": values}, header))
        except OSError as error:
            self._failed(path, error)
        else:
            self._n_files += 1
            self._unwritten = []
            self._on_written()
        self._written = perf_counter()

    def _header(self) -> dict[str, str]:
        """Metadata that a file of this step's slices must have."""
        assert self._params is not None
        return {"step": str(self._step), "config": self._identity, "params_sha256": params_sha256(self._params)}

    def clear(self) -> None:
        """Remove all files: their step is done."""
        if not self._n_files:
            return
        self._n_files = 0
        for path in self._folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
