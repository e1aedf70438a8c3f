"""Where slices of the gradient are computed: in this process, or by Ray actors.

A pool is made for one objective and one source of batches. For each step it gets the
parameters and a shard of tiles for each worker, and gives back the slices. Both pools run
the same ``Worker``, so they give the same bits.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.blas import single_threaded_blas
from distnum.errors import InputError, TrainingError
from distnum.objectives import Objective
from distnum.plan import Shard, shard_size
from distnum.ray_session import first_line, ray_session

__all__ = ["GradSlice", "Pool", "RayPool", "SerialPool", "Worker"]

Array = NDArray[np.floating]
BatchAt = Callable[[int], Any]

# A worker that dies is replaced; one that keeps dying has a reason that will not go away.
_MOST_REPLACEMENTS_A_STEP = 3
_WORKER_START_TIMEOUT_S = 120.0

# Of a file that the processes of one machine share; a larger one would be written to the
# disk now and then.
_MOST_SHARED_BYTES = 32_000_000


@dataclass(frozen=True)
class GradSlice:
    """One worker's part of a step.

    Attributes:
        values: the gradient at the indices of the shard, its tiles one after the other.
        loss: the loss at the point itself; None where it was not asked for.
        costs: of all tiles at the point, shape ``(n_tiles,)``; None where they were not asked for.
        compute_s: seconds that the worker computed.
        group_s: seconds of that for each group of tiles; None where the objective has no groups.
    """

    values: Array
    loss: float | None
    costs: NDArray[np.float64] | None
    compute_s: float
    group_s: NDArray[np.float64] | None = None


class Worker:
    """Computes slices of the gradient of one objective.

    Args:
        objective: what to difference.
        batch_at: gives the batch of a step.
        n_threads: that compute a slice; bits do not depend on it.
    """

    def __init__(self, objective: Objective, batch_at: BatchAt, n_threads: int = 1) -> None:
        self._objective = objective
        self._batch_at = batch_at
        self._n_threads = n_threads

    def grad_slice(self, step: int, params: Array, shard: Shard, first: bool) -> GradSlice:
        """The slice of a shard at a step's batch; the first shard's has what is known of the whole step."""
        started = perf_counter()
        if not params.flags.writeable and not self._objective.thread_safe:
            params = params.copy()  # a black box is differenced in place
        point = self._objective.at(params, self._batch_at(step), self._n_threads)
        values = point.grad_slice(shard)
        loss, costs = (point.loss, point.costs) if first else (None, None)
        return GradSlice(values, loss, costs, perf_counter() - started, point.group_s)


class Pool(Protocol):
    """Where slices are computed."""

    @property
    def n_workers(self) -> int:
        """How many shards a step should have."""
        ...

    @property
    def n_threads(self) -> int:
        """Threads of each worker."""
        ...

    def grad_slices(
        self, step: int, params: Array, shards: Sequence[Shard], meanwhile: Callable[[], None] = lambda: None
    ) -> list[GradSlice]:
        """The slices of the shards at a step's batch, in the order of the shards.

        ``meanwhile`` is called once, where possible while the workers compute.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Closing(ABC):
    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SerialPool(_Closing):
    """Computes every slice in this process; pickles nothing and starts nothing."""

    def __init__(self, objective: Objective, batch_at: BatchAt, n_threads: int = 1) -> None:
        self._worker = Worker(objective, batch_at, n_threads)
        self.n_workers = 1
        self.n_threads = n_threads

    def grad_slices(
        self, step: int, params: Array, shards: Sequence[Shard], meanwhile: Callable[[], None] = lambda: None
    ) -> list[GradSlice]:
        meanwhile()
        with single_threaded_blas():
            return [self._worker.grad_slice(step, params, shard, number == 0) for number, shard in enumerate(shards)]

    def close(self) -> None:
        pass


class RayPool(_Closing):
    """Computes each shard in a Ray actor of its own.

    Args:
        objective, batch_at: sent once to each node, not with every step.
        n_workers: actors, or a function that chooses them, and the threads of each, from the
            cluster's CPUs and nodes.
        n_threads: of each; an actor asks Ray for as many CPUs.
        address: of a Ray cluster that runs already; None starts one on this machine, which
            ends with the pool. A session that this process has already begun is used as it is.
        dtype: of the parameters.

    Raises:
        InputError: the cluster cannot be reached or has too few CPUs.
        TrainingError: the workers do not start.
    """

    def __init__(
        self,
        objective: Objective,
        batch_at: BatchAt,
        n_workers: int | Callable[[int, int], tuple[int, int]],
        n_threads: int = 1,
        address: str | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.n_threads = n_threads
        dtype = np.dtype(dtype)
        self._tiles = objective.tiles
        self._session = contextlib.ExitStack()
        try:
            asked = 1 if callable(n_workers) else n_workers
            ray, folder = self._session.enter_context(ray_session(address, asked * n_threads, asked))
            self._ray = ray
            self._own = folder is not None
            n_bytes = _Shared.N_PLACES * dtype.itemsize * objective.n_params
            file = folder / f"shared-{uuid4().hex}" if folder is not None and n_bytes <= _MOST_SHARED_BYTES else None
            self._shared = _Shared(file, dtype, objective.n_params, new=True) if file is not None else None
            available = int(ray.cluster_resources().get("CPU", 0))
            if callable(n_workers):
                n_workers, n_threads = n_workers(available, sum(1 for node in ray.nodes() if node["Alive"]))
                self.n_threads = n_threads
            if n_workers * n_threads > available:
                raise InputError(
                    f"workers is {n_workers} and threads_per_worker is {n_threads}, but the Ray cluster has "
                    f"{available:g} CPUs; their product must not be more."
                )
            self.n_workers = n_workers
            self._actor_class = ray.remote(_actor_class())
            try:
                self._setup = ray.put((objective, batch_at, file, dtype))
            except (TypeError, ValueError, pickle.PicklingError) as error:
                raise InputError(
                    f"the function or its data cannot be sent to workers, as it holds what no other process can "
                    f"have: {str(error.__cause__ or error).strip().splitlines()[0]}. Leave that out, or compute here: "
                    "workers=0."
                ) from None
            self._actors = [self._start() for _ in range(n_workers)]
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _start(self) -> Any:
        options = {"num_cpus": self.n_threads, "max_restarts": 0, "max_task_retries": 0}
        return self._actor_class.options(**options).remote(self._setup, self.n_threads)

    def _wait_until_ready(self) -> None:
        ray = self._ray
        try:
            ray.get([actor.ready.remote() for actor in self._actors], timeout=_WORKER_START_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            raise TrainingError(
                f"{self.n_workers} workers did not all start within {_WORKER_START_TIMEOUT_S:g} s; "
                "is the Ray cluster busy with other work?"
            ) from None
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayActorError as error:
            remedy = "" if self._own else " If the cluster asks for no token, set RAY_AUTH_MODE=disabled."
            raise TrainingError(f"A worker died while it started: {first_line(error)}{remedy}") from error

    def grad_slices(
        self, step: int, params: Array, shards: Sequence[Shard], meanwhile: Callable[[], None] = lambda: None
    ) -> list[GradSlice]:
        ray = self._ray
        sizes = [shard_size(self._tiles, shard) for shard in shards]
        positions = np.cumsum([0, *sizes]).tolist()
        sent = None
        if self._shared is None:
            sent = ray.put(params)
        else:
            self._shared.params(step)[:] = params

        def call(number: int) -> Any:
            # As bytes, and so the answers: Ray takes a fraction of a millisecond to serialise each
            # argument and each array of another kind.
            task = pickle.dumps((step, shards[number], positions[number], number == 0))
            return self._actors[number].grad_slice.remote(task, sent)

        calls = [call(number) for number in range(len(shards))]
        meanwhile()
        try:
            found = [pickle.loads(answer) for answer in ray.get(calls)]
        except ray.exceptions.RayError:
            found = self._gather_one_by_one(step, dict(zip(calls, range(len(shards)), strict=True)), call)
        if self._shared is not None:
            grad = self._shared.grad(step)
            found = [
                replace(one, values=grad[position : position + size])
                for one, position, size in zip(found, positions[:-1], sizes, strict=True)
            ]
        for one, size in zip(found, sizes, strict=True):
            assert one.values.shape == (size,)
        return found

    def _gather_one_by_one(self, step: int, pending: dict[Any, int], call: Callable[[int], Any]) -> list[GradSlice]:
        """The answers where some are errors; a dead worker is replaced, and computes its shard again."""
        ray = self._ray
        found: dict[int, GradSlice] = {}
        n_replaced = 0
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            number = pending.pop(ready[0])
            try:
                found[number] = pickle.loads(ray.get(ready[0]))
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayActorError as error:
                n_replaced += 1
                if n_replaced > _MOST_REPLACEMENTS_A_STEP:
                    raise TrainingError(
                        f"Workers died {n_replaced} times in step {step}, the last one with: {first_line(error)} "
                        "A worker that keeps dying is usually out of memory; try fewer workers."
                    ) from error
                # Only the lost shard is computed again, by a worker in the dead one's place.
                self._actors[number] = self._start()
                pending[call(number)] = number
        return [found[number] for number in sorted(found)]

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return list(self._ray.get([actor.pid.remote() for actor in self._actors]))

    def close(self) -> None:
        for actor in getattr(self, "_actors", []):
            with contextlib.suppress(Exception):  # the session may be gone already
                self._ray.kill(actor)
        self._actors = []
        self._session.close()


class _Shared:
    """Parameters and slices in a file that all processes of a machine map into their memory.

    Each has two places, used in turn by the steps: whoever is late for a step meets nothing
    of the next one.
    """

    N_PLACES = 4

    def __init__(self, file: Path, dtype: np.dtype[Any], n_params: int, new: bool = False) -> None:
        whole = np.memmap(file, dtype, "w+" if new else "r+", shape=(self.N_PLACES, n_params))
        self._places = np.asarray(whole)

    def params(self, step: int) -> Array:
        """Where the parameters of a step stand."""
        return self._places[step % 2]

    def grad(self, step: int) -> Array:
        """Where the slices of a step's gradient go, one after the other."""
        return self._places[2 + step % 2]


def _actor_class() -> type:
    class DistnumWorker:
        """A ``Worker`` in a process of its own."""

        def __init__(self, setup: tuple[Objective, BatchAt, Path | None, np.dtype[Any]], n_threads: int) -> None:
            objective, batch_at, file, dtype = setup
            self._blas = single_threaded_blas()
            self._blas.__enter__()
            self._shared = _Shared(file, dtype, objective.n_params) if file is not None else None
            self._worker = Worker(objective, batch_at, n_threads)

        def ready(self) -> bool:
            return True

        def pid(self) -> int:
            return os.getpid()

        def grad_slice(self, task: bytes, params: Array | None) -> bytes:
            step, shard, position, first = pickle.loads(task)
            if self._shared is None:
                assert params is not None
                return pickle.dumps(self._worker.grad_slice(step, params, shard, first), pickle.HIGHEST_PROTOCOL)
            params = self._shared.params(step).view()
            params.flags.writeable = False
            found = self._worker.grad_slice(step, params, shard, first)
            self._shared.grad(step)[position : position + found.values.size] = found.values
            return pickle.dumps(replace(found, values=found.values[:0]), pickle.HIGHEST_PROTOCOL)

    return DistnumWorker


def _cause(error: Exception) -> BaseException:
    """What a worker raised, as it was raised there."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
