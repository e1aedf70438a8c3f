"""The worker's side of a Ray pool: what an actor is sent, and what it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.workers.pool import BatchAt
from distnum.workers.ray_pool.messages import RayTask, packed_reply, unpacked_task
from distnum.workers.ray_pool.serving import ServingActor
from distnum.workers.ray_pool.shared_memory import BlockPeers, SharedBlocks, SharedVectors
from distnum.workers.tiles import positions_of
from distnum.workers.work import Work
from distnum.workers.worker import Worker

__all__ = ["DistnumWorker", "Setup"]


@dataclass(frozen=True)
class Setup:
    """What every worker of a pool is given once.

    Attributes:
        work: What to compute.
        batch_at: Returns the batch of a step.
        n_threads: Threads to warm up with.
        dtype: Dtype of the parameters and answers.
        warm_up: Parameters to compute some tiles with before the worker is used; None to compute none.
        folder: Folder for sockets, in a session on the driver's own machine; None elsewhere.
    """

    work: Work
    batch_at: BatchAt
    n_threads: int
    dtype: np.dtype[Any]
    warm_up: Array | None
    folder: Path | None = None

    @property
    def answers_shape(self) -> tuple[int, ...]:
        """Shape of the array of all answers."""
        return (int(self.work.tiles[-1]), *self.work.answer_shape)


class DistnumWorker(ServingActor):
    """A ``Worker`` in a process of its own."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.folder)
        self._setup = setup
        self._worker = Worker(setup.work, setup.batch_at)
        self._vectors: SharedVectors | None = None
        self._blocks: SharedBlocks | None = None
        self._own_answers: Array | None = None  # for answers that are sent

    def _prepare(self) -> None:
        if self._setup.warm_up is not None:
            self._worker.warm_up(self._setup.warm_up, self._setup.n_threads)

    def _compute(self, message: bytes, params: Array | None) -> bytes:
        task = unpacked_task(message)
        vectors = self._map_vectors(task.vectors)
        if vectors is not None:
            params, answers = vectors.params(task.turn).view(), vectors.answers(task.turn)
            params.flags.writeable = False
        else:
            assert params is not None
            if self._own_answers is None:
                self._own_answers = np.empty(self._setup.answers_shape, params.dtype)
            answers = self._own_answers
        reply = self._worker.compute(task, params, answers, self._peers(task))
        if vectors is None:
            work = self._setup.work
            reply = replace(reply, answers=answers[positions_of(work.tiles, task.shard, work.order)])
        return packed_reply(reply)

    def _peers(self, task: RayTask) -> BlockPeers | None:
        if task.blocks is None:
            return None
        file, shape = task.blocks
        if self._blocks is None or self._blocks.file != file:
            self._blocks = SharedBlocks(file, *shape)
        return BlockPeers(self._blocks, task.turn, task.rank)

    def _map_vectors(self, file: Path | None) -> SharedVectors | None:
        if file is None:
            return None
        if self._vectors is None or self._vectors.file != file:
            setup = self._setup
            self._vectors = SharedVectors(file, setup.dtype, setup.work.n_params, setup.answers_shape)
        return self._vectors
