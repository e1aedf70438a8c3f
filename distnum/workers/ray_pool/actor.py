"""A worker's side of a pool: what is sent to an actor, what the actor does, and what its errors say."""

from __future__ import annotations

import json
import os
import pickle
import platform
from dataclasses import dataclass, replace
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import TrainingError
from distnum.common.machine import single_threaded_blas
from distnum.common.requirements import REQUIREMENTS, unmet
from distnum.common.text import first_line
from distnum.workers.pool import BatchAt
from distnum.workers.ray_pool.shared_memory import Peers, SharedBlocks, SharedVectors
from distnum.workers.tiles import Shard, positions_of
from distnum.workers.work import Objective
from distnum.workers.worker import Worker

__all__ = ["DistnumWorker", "Setup", "Task", "cause_of", "reason_of"]


@dataclass(frozen=True)
class Setup:
    """What every worker of a pool gets once.

    Attributes:
        objective, batch_at: what it differences.
        n_threads: of it.
        dtype: of the parameters.
        warm_up: parameters to try some slices with before it is used; None for no trial.
        folder: of a session on the driver's own machine, for sockets; None elsewhere.
    """

    objective: Objective
    batch_at: BatchAt
    n_threads: int
    dtype: np.dtype[Any]
    warm_up: Array | None
    folder: Path | None = None


@dataclass(frozen=True)
class Task:
    """A shard of a gradient; the parameters come beside it, or stand in the shared file.

    ``board`` and ``rank`` are for what workers find for each other; see ``SharedBlocks``.
    """

    turn: int
    step: int
    shard: Shard
    first: bool
    more: bool
    file: Path | None
    n_threads: int
    board: tuple[Path, tuple[int, int]] | None
    rank: float


class DistnumWorker:
    """A ``Worker`` in a process of its own."""

    def __init__(self, setup: Setup) -> None:
        self._blas = single_threaded_blas()
        self._blas.__enter__()
        self._setup = setup
        self._worker = Worker(setup.objective, setup.batch_at, setup.n_threads)
        self._shared: SharedVectors | None = None
        self._board: SharedBlocks | None = None
        self._grad: Array | None = None  # where slices are put that are sent
        self._listener = _listener(setup.folder)

    def ready(self) -> tuple[int, str, str, str | None]:
        """Its process id, node, host, and the address of its socket, once it can be given work.

        Raises:
            TrainingError: a submitted job finds other versions on this node than distnum needs.
        """
        import ray

        needed = os.environ.get(REQUIREMENTS)
        if needed and (wrong := unmet(json.loads(needed))):
            raise TrainingError(f"node {platform.node()} does not fit: {'; '.join(wrong)}. Install that on every node.")
        if self._setup.warm_up is not None:
            self._worker.warm_up(self._setup.warm_up)
        address = None if self._listener is None else str(self._listener.address)
        return os.getpid(), ray.get_runtime_context().get_node_id(), platform.node(), address

    def serve(self) -> None:
        """Answer what comes over the socket, until that is closed at the other end.

        What a task raises is raised here, and ends it.
        """
        assert self._listener is not None
        with self._listener.accept() as line:
            while True:
                try:
                    task = line.recv_bytes()
                except (EOFError, OSError):
                    return
                answer = self.grad_slice(task, None)
                try:
                    line.send_bytes(answer)
                except OSError:
                    return

    def grad_slice(self, task: bytes, params: Array | None) -> bytes:
        asked: Task = pickle.loads(task)
        objective = self._setup.objective
        shared = self._attach(asked.file)
        if shared is not None:
            params, grad = shared.params(asked.turn).view(), shared.grad(asked.turn)
            params.flags.writeable = False
        else:
            assert params is not None
            if self._grad is None:
                self._grad = np.empty_like(params)
            grad = self._grad
        self._worker.n_threads = asked.n_threads
        found = self._worker.grad_slice(
            asked.turn, asked.step, params, asked.shard, grad, asked.first, asked.more, self._others(asked)
        )
        if shared is None:
            found = replace(found, values=grad[positions_of(objective.tiles, asked.shard, objective.order)])
        return pickle.dumps(found, pickle.HIGHEST_PROTOCOL)

    def _others(self, asked: Task) -> Peers | None:
        if asked.board is None:
            return None
        file, shape = asked.board
        if self._board is None or self._board.file != file:
            self._board = SharedBlocks(file, *shape)
        return Peers(self._board, asked.turn, asked.rank)

    def _attach(self, file: Path | None) -> SharedVectors | None:
        if file is None:
            return None
        if self._shared is None or self._shared.file != file:
            objective = self._setup.objective
            self._shared = SharedVectors(file, self._setup.dtype, objective.n_params)
        return self._shared


def _listener(folder: Path | None) -> Listener | None:
    """A socket in a folder; None where there are none, or the folder's name is too long for one."""
    if folder is None:
        return None
    try:
        return Listener(str(folder / f"worker-{os.getpid()}"), "AF_UNIX")
    except (OSError, ValueError):
        return None


def cause_of(error: Exception) -> BaseException:
    """What a worker raised, as it was raised there."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def reason_of(error: BaseException) -> str:
    """Why Ray says that a worker is gone, in a sentence."""
    text = " ".join(str(error).split())
    for mark in ("Worker exit detail: ", "The actor is dead because "):
        if mark in text:
            return text.split(mark, 1)[1].split(" Some common causes", 1)[0][:300]
    return f"{first_line(error)}."
