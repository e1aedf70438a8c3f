"""Evaluations through the user's own executor or map: of threads, processes, or another library's workers."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import EvaluationError, InputError, TrainingError
from distnum.common.text import first_line
from distnum.evaluation.call import Caller, FunctionCall
from distnum.evaluation.errors import raised_at
from distnum.evaluation.outcomes import Limits, Outcomes
from distnum.evaluation.points import Points

__all__ = ["Mapped", "OnExecutor"]

# An executor is given tasks of about this many seconds, and this many tasks for each of its workers.
_TASK_S = 0.05
_TASKS_AHEAD = 2
# A map is given at most this many tasks, as their times are not known before.
_MOST_TASKS = 1024

_NOT_A_MAP = "must return the results of all calls in their order, as map does"

Map = Callable[[Callable[[Any], Any], Any], Any]


class OnExecutor:
    """A ``Backend`` that submits evaluations to a ``concurrent.futures`` executor, and never shuts it down."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.n_workers = int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points as they finish.

        Raises:
            InputError: A time limit is given: an executor cannot end an evaluation.
            Exception: With ``limits.raises``, the function's own exception.
        """
        _refuse_timeout(limits)
        if isinstance(self._executor, ProcessPoolExecutor):
            _check_picklable(call)
        pending: set[Future[_Result]] = set()
        n_given, n_points, task_size = 0, len(points), 1
        try:
            while pending or n_given < n_points:
                while n_given < n_points and len(pending) < _TASKS_AHEAD * self.n_workers:
                    n = min(task_size, max(1, (n_points - n_given) // (2 * self.n_workers)))
                    numbers = np.arange(n_given, n_given + n)
                    pending.add(self._executor.submit(_evaluate, (call, points.take(numbers), numbers, limits)))
                    n_given += n
                left_s = None if limits.ends is None else max(0.0, limits.ends - perf_counter())
                done, pending = wait(pending, left_s, return_when=FIRST_COMPLETED)
                if not done:
                    return
                for future in done:
                    outcomes, error = _result_of(future)
                    if len(outcomes.seconds):
                        task_size = max(1, int(_TASK_S / max(float(outcomes.seconds.mean()), 1e-6)))
                    yield _checked(outcomes, error, limits, describe)
        finally:
            for future in pending:
                future.cancel()


class Mapped:
    """A ``Backend`` that evaluates through a function like the built-in ``map``."""

    def __init__(self, map_: Map) -> None:
        self._map = map_
        self.n_workers = os.cpu_count() or 1

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points in their order.

        Raises:
            InputError: A time limit is given: a map cannot end an evaluation.
            Exception: With ``limits.raises``, the function's own exception.
        """
        _refuse_timeout(limits)
        parts = np.array_split(np.arange(len(points)), min(len(points), _MOST_TASKS))
        tasks = [(call, points.take(part), part, limits) for part in parts]
        n = 0
        for result in self._results(call, tasks):
            if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Outcomes)):
                raise InputError(f"workers is {self._map!r:.60}, which {_NOT_A_MAP}; it returned {result!r:.60}.")
            outcomes, error = result
            n += 1
            yield _checked(outcomes, error, limits, describe)
        if n != len(tasks):
            raise InputError(f"workers is {self._map!r:.60}, which {_NOT_A_MAP}; it returned {n} of {len(tasks)}.")

    def _results(self, call: FunctionCall, tasks: list[_Task]) -> Iterator[Any]:
        try:
            yield from _results_of(self._map, tasks)
        except InputError:
            raise
        except Exception as error:
            if "pickle" in f"{type(error).__name__} {error}".lower():
                _check_picklable(call)
            raise


_Task = tuple[FunctionCall, Points, NDArray[np.int64], Limits]
_Result = tuple[Outcomes, BaseException | None]


def _evaluate(task: _Task) -> _Result:
    """Evaluate the points of one task; they have the given numbers for the caller."""
    call, points, numbers, limits = task
    caller = Caller(call)
    outcomes = caller.evaluate(points, np.arange(len(points)), limits)
    return outcomes.renumbered(numbers), _sendable(caller.error) if limits.raises else None


def _sendable(error: BaseException | None) -> BaseException | None:
    """The exception, or one with its text if it cannot be pickled."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else TrainingError(str(error))
    except Exception:  # its own methods may raise anything
        return TrainingError(f"the function raised {type(error).__qualname__}: {error}")


def _results_of(map_: Map, tasks: list[_Task]) -> Iterator[Any]:
    results = map_(_evaluate, tasks)
    if not hasattr(results, "__iter__"):
        raise InputError(f"workers is {map_!r:.60}, which {_NOT_A_MAP}; it returned {results!r:.60}.")
    return iter(results)


def _result_of(future: Future[_Result]) -> _Result:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise EvaluationError(
            "a process of the executor has ended in an evaluation: the function may have ended it, or lacks memory. "
            "With a number of workers, or an Evaluator, that costs one point and is told with its place."
        ) from error


def _checked(
    outcomes: Outcomes, error: BaseException | None, limits: Limits, describe: Callable[[int], str]
) -> Outcomes:
    if limits.raises and outcomes.failures and error is not None:
        number, failure = next(iter(outcomes.failures.items()))
        raise raised_at(error, describe(number), failure.traceback)
    return outcomes


def _check_picklable(call: FunctionCall) -> None:
    try:
        pickle.dumps(call)
    except Exception as error:  # an object's own methods may raise anything
        raise InputError(
            f"the function or its arguments cannot be sent to other processes: {first_line(error)}. Define "
            "it at the top of a module, or use a number of workers or an Evaluator, which take lambdas too."
        ) from None


def _refuse_timeout(limits: Limits) -> None:
    if limits.timeout is not None:
        raise InputError(
            f"timeout is {limits.timeout:g}, but evaluations by an executor or a map cannot be ended; use a number of "
            "workers or an Evaluator."
        )
