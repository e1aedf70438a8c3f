"""Calls of any function on Ray workers: what ``Evaluator.map`` asks for, and the worker's side of it.

Arguments and results are pickled, and go by calls of Ray.
"""

from __future__ import annotations

import platform
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import EvaluationError, LostError
from distnum.common.text import first_line
from distnum.evaluation.errors import raised_at, traced
from distnum.evaluation.outcomes import Failure, Limits
from distnum.evaluation.ray_workers.jobs import name_of
from distnum.evaluation.ray_workers.messages import EvaluationTask
from distnum.evaluation.ray_workers.turns import Stream
from distnum.workers.ray_pool.reasons import sendable_errors

__all__ = ["MapJob", "Mapped", "in_order", "mapped"]

# Arguments that are taken from an iterator of unknown length before they are needed.
_MOST_AHEAD = 1000


@dataclass(frozen=True)
class Mapped:
    """Finished calls.

    Attributes:
        numbers: Numbers of the calls, shape ``(k,)``.
        results: What the function returned, or the exception that it raised; pickled. b"" if it ended its process.
        seconds: Duration of each call, shape ``(k,)``.
        failures: Failures by the number of the call.
    """

    numbers: NDArray[np.int64]
    results: list[bytes]
    seconds: NDArray[np.float64]
    failures: dict[int, Failure] = field(default_factory=dict)


class MapJob:
    """Calls of one function: a ``Job``.

    Args:
        cloudpickle: The module.
        pickled: The pickled function.
        arguments: An argument for each call; taken when they are needed.
        limits: What a call may cost.
    """

    most_points = 1_000_000

    def __init__(self, cloudpickle: Any, pickled: bytes, arguments: Iterable[Any], limits: Limits) -> None:
        self._cloudpickle, self.pickled, self.function, self.limits = cloudpickle, pickled, name_of(pickled), limits
        self._left = len(arguments) if isinstance(arguments, Sized) else None
        self._iterator: Iterator[Any] = iter(arguments)
        self._ahead: deque[Any] = deque()
        self._items: dict[int, Any] = {}
        self._n_drawn = 0

    def _draw_ahead(self, n: int) -> None:
        self._ahead.extend(islice(self._iterator, max(0, n - len(self._ahead))))

    def draw(self, most: int) -> NDArray[np.int64]:
        self._draw_ahead(most)
        begin = self._n_drawn
        while self._ahead and self._n_drawn < begin + most:
            self._items[self._n_drawn] = self._ahead.popleft()
            self._n_drawn += 1
        return np.arange(begin, self._n_drawn)

    def n_new(self, at_least: int) -> int:
        self._draw_ahead(min(at_least, _MOST_AHEAD) + 1)
        known = 0 if self._left is None or not self._ahead else self._left - self._n_drawn
        return max(known, len(self._ahead))

    def task(self, turn: int, numbers: NDArray[np.int64], budget_s: float, first: bool) -> tuple[EvaluationTask, bytes]:
        task = EvaluationTask(turn, self.function, numbers, self.limits, budget_s)
        return task, self._cloudpickle.dumps([self._items[number] for number in numbers.tolist()])

    def results(self, reply: bytes) -> tuple[Mapped, bool]:
        results = self._cloudpickle.loads(reply)
        for number in results.numbers.tolist():
            self._items.pop(number, None)
        return results, False

    def again(self, number: int) -> None:
        """Nothing: a result does not say how often its call was tried."""

    def failed(self, number: int, failure: Failure) -> Mapped:
        self._items.pop(number, None)
        return Mapped(np.array([number]), [b""], np.array([np.nan]), {number: failure})

    def without(self, results: Mapped, numbers: set[int]) -> Mapped:
        kept = [position for position, number in enumerate(results.numbers.tolist()) if number not in numbers]
        failures = {number: failure for number, failure in results.failures.items() if number not in numbers}
        return Mapped(results.numbers[kept], [results.results[k] for k in kept], results.seconds[kept], failures)

    def describe(self, number: int) -> str:
        return f"in call {number}"


def in_order(parts: Stream, load: Callable[[bytes], Any]) -> Iterator[Any]:
    """Yield the results of calls in their order.

    Args:
        parts: The results as they come.
        load: Unpickles a result.

    Raises:
        Exception: The function has raised it in the call whose turn it is.
        EvaluationError, LostError: The function ended its process, took too long, or its workers were lost.
    """
    waiting: dict[int, tuple[bytes, Failure | None]] = {}
    n_done = 0
    with closing(parts):
        for mapped in parts:
            for number, result in zip(mapped.numbers.tolist(), mapped.results, strict=True):
                waiting[number] = result, mapped.failures.get(number)
            while n_done in waiting:
                result, failure = waiting.pop(n_done)
                if failure is not None:
                    raise _exception(load(result) if result else None, failure, n_done)
                yield load(result)
                n_done += 1


def _exception(error: BaseException | None, failure: Failure, number: int) -> BaseException:
    place = f"in call {number}, on {failure.host}"
    if error is not None:
        return raised_at(error, place, failure.traceback)
    text = f"{failure.text} ({place})"
    return traced(LostError(text) if failure.kind == "lost" else EvaluationError(text), failure.traceback)


def mapped(
    function: Callable[[Any], Any], task: EvaluationTask, argument: bytes, begin: Callable[[int], None]
) -> bytes:
    """Call a function with the arguments of a task; return the pickled ``Mapped``.

    Args:
        function: The function.
        task: The task.
        argument: The pickled arguments.
        begin: Called with the number of each call before it.
    """
    import ray.cloudpickle as cloudpickle

    ends = perf_counter() + task.budget_s
    results: list[bytes] = []
    seconds: list[float] = []
    failures: dict[int, Failure] = {}
    for number, item in zip(task.numbers.tolist(), cloudpickle.loads(argument), strict=True):
        begin(number)
        for attempt in range(task.limits.retries + 1):
            began = perf_counter()
            try:
                result = cloudpickle.dumps(function(item))
                break
            except (Exception, SystemExit) as error:
                failure = _failure(error, attempt + 1)
                result = _pickled_error(cloudpickle, error)
        else:
            failures[number] = failure
        results.append(result)
        seconds.append(perf_counter() - began)
        if perf_counter() > ends:
            break
    numbers = task.numbers[: len(results)]
    content: bytes = cloudpickle.dumps(Mapped(numbers, results, np.array(seconds), failures))
    return content


def _failure(error: BaseException, n_attempts: int) -> Failure:
    of_function = error.__traceback__ and error.__traceback__.tb_next  # without the frame of this module
    trace = "".join(traceback.format_exception(type(error), error, of_function))
    text = f"{type(error).__qualname__}: {first_line(error)}"
    return Failure("exception", text, trace, n_attempts, platform.node())


def _pickled_error(cloudpickle: Any, error: BaseException) -> bytes:
    try:
        with sendable_errors():
            raise error
    except Exception as sent:
        return cloudpickle.dumps(sent)
    raise AssertionError("unreachable")
