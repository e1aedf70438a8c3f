"""Workers that evaluate functions for as long as they are needed: started once, used by many calls."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distnum.common.checks import as_int, checked, optional, real, whole
from distnum.common.errors import InputError
from distnum.common.machine import n_cores
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Backend, Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.ray_workers.map_job import MapJob, in_order
from distnum.evaluation.ray_workers.turns import Stream
from distnum.workers.pool import Closing

if TYPE_CHECKING:
    from distnum.evaluation.ray_workers.backend import RayBackend
    from distnum.workers.ray_pool.roster import WorkerCounts

__all__ = ["Evaluator"]

_MOST_WORKERS = 100_000


class Evaluator(Closing):
    """Workers that evaluate functions, for many calls.

    They start on entry of the ``with`` block or when they are first needed, and end with ``close``. A function is sent
    to each worker once; later calls of the same function send numbers only. Give an Evaluator as the option
    ``workers`` of ``gradient``, ``jacobian`` or ``differentiate``, ``evaluator.map`` as ``workers`` of SciPy, and
    ``evaluator.batch_evaluator`` to optimagic.

    Calls of several threads wait for each other. A call of the same thread ends an earlier one that is unfinished.

    Args:
        workers: Number of workers, ``"auto"`` for one on each CPU, or a range such as ``"2:8"``.
        address: Address of a running Ray cluster; None starts a session on this machine, which ends with its last user.
        timeout: Seconds after which an evaluation is ended, with its process and its children; None for no limit.
        retries: Number of times that an evaluation is tried again after a failure of its own.
        store: Folder or URI in which evaluations are kept; None to keep none. ``map`` does not use it.
        resources: Resources of each worker besides one CPU, by Ray's names, such as ``{"GPU": 1}``.
        setup: Called without arguments in each worker when it starts.
        workdir: Folder of which each worker gets a copy to work in, or a ``WorkFolders``.

    Raises:
        InputError: An option cannot be used.
    """

    def __init__(
        self,
        workers: int | str = "auto",
        address: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        store: Any = None,
        resources: Mapping[str, float] | None = None,
        setup: Callable[[], object] | None = None,
        workdir: Any = None,
    ) -> None:
        from distnum.evaluation.programs.folders import WorkFolders

        if setup is not None and not callable(setup):
            raise InputError(f"setup is {setup!r:.60}; it must be a function without arguments, or None.")
        self._range = _range_of(workers)
        self._address = address
        timeout = checked("timeout", timeout, optional(real(above=0)))
        self._limits = Limits(timeout, checked("retries", retries, whole(0, 1000)))
        self._store, self._resources, self._setup = store, dict(resources or {}), setup
        self._workdir = WorkFolders.of(workdir)
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._ray: RayBackend | None = None
        self._backend: Backend | None = None
        self._closed = False

    def __enter__(self) -> Evaluator:
        self._started()
        return self

    def __reduce__(self) -> Any:
        # A function that is sent to workers may refer to its Evaluator, as optimagic's do, but not use it.
        return _Elsewhere, ()

    @property
    def n_workers(self) -> int:
        """Current number of workers."""
        return self._started().n_workers

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._started().worker_pids

    @property
    def backend(self) -> Backend:
        """What evaluates functions at points, with the limits and the store of this Evaluator."""
        self._started()
        assert self._backend is not None
        return self._backend

    def map(self, fun: Callable[[Any], Any], points: Iterable[Any]) -> Iterator[Any]:
        """Yield ``fun(point)`` for all points, in their order.

        Points are taken from an iterator when they are needed. Points and results may be anything that can be pickled.

        Raises:
            Exception: ``fun`` has raised it at this point.
            EvaluationError: ``fun`` ended its process at this point, or took too long.
        """
        return in_order(self._mapped(fun, points), self._load)

    def __call__(self, fun: Callable[[Any], Any], points: Iterable[Any]) -> Iterator[Any]:
        """``map``, for what takes a function like the built-in ``map``."""
        return self.map(fun, points)

    def evaluate(self, fun: Callable[[Any], Any], points: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, fun(point))`` for all points as they finish, or a ``Failure`` in place of the value.

        Points are taken from an iterator when they are needed. Points and results may be anything that can be pickled.
        """
        with contextlib.closing(self._mapped(fun, points)) as parts:
            for mapped in parts:
                for number, result in zip(mapped.numbers.tolist(), mapped.results, strict=True):
                    failure = mapped.failures.get(number)
                    yield number, failure if failure is not None else self._load(result)

    def batch_evaluator(
        self,
        func: Callable[..., Any],
        arguments: Iterable[Any],
        *,
        n_cores: int = 1,
        error_handling: Any = "continue",
        unpack_symbol: str | None = None,
    ) -> list[Any]:
        """The values of ``func`` for all arguments, in their order, as a batch evaluator of optimagic.

        Args:
            func: The function.
            arguments: An argument for each call.
            n_cores: Not used: all workers of this Evaluator are.
            error_handling: ``"raise"``, or ``"continue"`` to return the traceback in place of the value.
            unpack_symbol: ``"*"`` or ``"**"`` for arguments that are tuples or dicts of arguments; None for others.

        Raises:
            InputError: An option cannot be used.
        """
        handling = str(getattr(error_handling, "value", error_handling))
        if handling not in ("raise", "raise_strict", "continue"):
            raise InputError(f"error_handling is {error_handling!r:.60}; it must be 'raise' or 'continue'.")
        if unpack_symbol not in (None, "*", "**"):
            raise InputError(f"unpack_symbol is {unpack_symbol!r:.60}; it must be '*', '**' or None.")
        fun = func if unpack_symbol is None else _Unpacked(func, unpack_symbol)
        if handling != "continue":
            return list(self.map(fun, arguments))
        values = dict(self.evaluate(fun, arguments))
        return [_value_or_trace(values[number]) for number in range(len(values))]

    def _mapped(self, fun: Callable[[Any], Any], points: Iterable[Any]) -> Stream:
        backend = self._started()
        limits = Limits(self._limits.timeout, self._limits.retries, raises=False)
        return backend.run(MapJob(backend.cloudpickle, backend.pickled(fun), points, limits))

    def _load(self, content: bytes) -> Any:
        return self._started().cloudpickle.loads(content)

    def _started(self) -> RayBackend:
        """The workers, which start if they have not."""
        if os.getpid() != self._pid:
            raise InputError("this process is a copy (fork) of the one that made the Evaluator; make one here.")
        with self._lock:
            if self._closed:
                raise InputError("the Evaluator is closed; make another one.")
            if self._ray is None:
                self._start()
            assert self._ray is not None
            return self._ray

    def _start(self) -> None:
        from distnum.evaluation.ray_workers.backend import RayBackend

        least, most = self._range
        counts = least if least == most else self._counts_of
        with contextlib.ExitStack() as stack:
            if self._workdir is not None:
                stack.enter_context(self._workdir)
            ray = RayBackend(
                counts, self._address, resources=self._resources, prepare=self._setup, workdir=self._workdir
            )
            stack.callback(ray.close)
            backend: Backend = _Limited(ray, self._limits)
            if self._store is not None:
                from distnum.evaluation.stores.backend import stored

                backend = stack.enter_context(stored(backend, self._store))
            self._ray, self._backend, self._stack = ray, backend, stack.pop_all()

    def _counts_of(self, n_cpus: int, n_nodes: int) -> WorkerCounts:
        from distnum.workers.ray_pool.roster import WorkerCounts

        least, most = self._range
        if self._address is None and n_nodes == 1 and not os.environ.get("RAY_ADDRESS"):
            n_cpus = max(1, min(n_cpus, n_cores()))
        if most is None:
            return WorkerCounts(least, n_cpus, n_cpus)
        return WorkerCounts(least, max(least, min(most, n_cpus)), least)

    def close(self) -> None:
        """End the workers. Nothing can be evaluated afterwards."""
        with self._lock:
            self._closed = True
            self._stack.close()


class _Elsewhere:
    """An Evaluator in another process than its own."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InputError(
            "an Evaluator can be used in the process that has made it only, not by a function on a worker."
        )

    def __call__(self, *_: Any) -> Any:
        return self.map


class _Limited:
    """A backend with limits for those evaluations that have none of their own."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._backend = backend
        self._limits = limits

    @property
    def n_workers(self) -> int:
        """Number of evaluations at the same time."""
        return self._backend.n_workers

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points as they finish. See ``Backend``."""
        timeout = self._limits.timeout if limits.timeout is None else limits.timeout
        limits = replace(limits, timeout=timeout, retries=limits.retries or self._limits.retries)
        return self._backend.evaluate(call, points, limits, describe)


class _Unpacked:
    """A function of one argument that holds those of another function."""

    def __init__(self, function: Callable[..., Any], symbol: str) -> None:
        self._function, self._symbol = function, symbol

    def __call__(self, arguments: Any) -> Any:
        return self._function(*arguments) if self._symbol == "*" else self._function(**arguments)


def _value_or_trace(result: Any) -> Any:
    return result.traceback or result.text if isinstance(result, Failure) else result


def _range_of(workers: int | str) -> tuple[int, int | None]:
    """The smallest and the largest number of workers; None for no limit."""
    if workers == "auto":
        return 1, None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        least, colon, most = str(workers).partition(":")
        numbers = as_int(least), as_int(most if colon else least)
        if 1 <= numbers[0] <= numbers[1] <= _MOST_WORKERS:
            return numbers
    raise InputError(
        f"workers is {workers!r:.60}; it must be a number from 1 to {_MOST_WORKERS:,}, 'auto', or a range: '2:8'."
    )
