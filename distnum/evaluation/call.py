"""A user's function with the form of its argument, and the calls of it at points.

A ``Caller`` runs in the driver and in workers alike, so values and failures are the same in both.
"""

from __future__ import annotations

import inspect
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line
from distnum.evaluation.argument import Argument, FurtherArguments
from distnum.evaluation.forms import Form
from distnum.evaluation.outcomes import Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.values import ValueForm, flat_value

__all__ = ["Caller", "FunctionCall", "check_takes"]

# A stack of points for a vectorized function has at most this many bytes.
_STACK_BYTES = 64 * 2**20
_NUMBER = ValueForm(None, ((),), "float64")


def check_takes(
    function: Callable[..., Any], name: str, arguments: Sequence[str], kwargs: Mapping[str, Any] | None = None
) -> None:
    """Refuse a function that cannot be called with these positional and named arguments.

    Raises:
        InputError: It cannot.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # functions written in C may have no signature
    try:
        signature.bind(*arguments, **(kwargs or {}))
    except TypeError as error:
        taken = ", ".join([*arguments, *(f"{key}=" for key in kwargs or {})])
        raise InputError(f"{name} takes {signature}; it must take ({taken}): {error}.") from None


@dataclass(frozen=True)
class FunctionCall:
    """A function with everything that its calls need but the point.

    Attributes:
        function: Called as ``function(x, *args, **kwargs)``; with ``batch_at`` as ``function(x, batch, *args,
            **kwargs)``.
        form: Form of ``x``.
        args, kwargs: Further arguments.
        vectorized: Whether ``function`` takes several points at once, as an array of shape ``(k, *x.shape)``, and
            returns ``k`` values. ``x`` is then one array.
        batch_at: Returns the batch of a step; None for a function that takes no batch. It is called where the function
            is, once for the points of a call of ``Backend.evaluate``.
        step: The step, which is sent with the points: calls that differ in it alone are of one function.
    """

    function: Callable[..., Any]
    form: Form
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    vectorized: bool = False
    batch_at: Callable[[int], Any] | None = None
    step: int = 0

    def is_of(self, other: FunctionCall | None) -> bool:
        """Whether this is the same function with the same arguments, at the same step or another one."""
        return other is not None and all(
            getattr(self, one.name) is getattr(other, one.name) for one in fields(self) if one.name != "step"
        )

    def further_arguments(self) -> FurtherArguments:
        """What the function is called with besides the point: the batch of the step, if it takes one, and ``args``."""
        positional = {} if self.batch_at is None else {"batch": self.batch_at(self.step)}
        return FurtherArguments(positional | {f"args[{n}]": value for n, value in enumerate(self.args)}, self.kwargs)


class Caller:
    """Calls one function at points.

    Args:
        call: The function.

    Attributes:
        value_form: Form of the first value; later ones must have it too. None before.
        error: Exception of the last evaluation that failed; None if none did.
    """

    def __init__(self, call: FunctionCall) -> None:
        self._call = call
        self._further: FurtherArguments | None = None
        self.value_form: ValueForm | None = None
        self._are_numbers = False  # whether the values are numbers of float64
        self.error: BaseException | None = None

    def evaluate(
        self, points: Points, numbers: NDArray[np.int64], limits: Limits, ends: float | None = None
    ) -> Outcomes:
        """Evaluate some points, one after the other.

        With ``limits.raises`` it stops at the first failure, which is the last of the outcomes; ``error`` then is the
        exception. The time limit is not kept here.

        Args:
            points: The points.
            numbers: Numbers of those to evaluate.
            limits: What an evaluation may cost.
            ends: Time, by ``perf_counter``, after which no further point is begun; at least one is evaluated.

        Returns:
            The finished evaluations, a first part of ``numbers``.

        Raises:
            InputError: The function changes an argument.
            Exception: ``batch_at`` has raised it.
        """
        self.error = None
        further = self._arguments()
        part = points.take(numbers)
        x = Argument(self._call.form, part)
        evaluate = self._stacks if self._call.vectorized else self._one_by_one
        rows, seconds, failures, retried = evaluate(x, part, limits, ends)
        x.check_unchanged()
        further.check_unchanged()
        numbers = numbers[: len(rows)]
        outcomes = Outcomes(
            np.arange(len(rows)), self._values(rows), self.value_form, np.array(seconds), failures, platform.node()
        )
        return replace(outcomes, retried=retried).renumbered(numbers)

    def check_arguments(self) -> None:
        """Look once more, after the last evaluation, whether an argument is changed.

        Raises:
            InputError: It is.
        """
        self._arguments().check_unchanged(now=True)

    def _arguments(self) -> FurtherArguments:
        if self._further is None:
            self._further = self._call.further_arguments()
        return self._further

    def _one_by_one(self, x: Argument, points: Points, limits: Limits, ends: float | None) -> _Finished:
        call = self._call
        function, args, kwargs = call.function, self._arguments().args, call.kwargs
        n_attempts = limits.retries + 1
        rows: list[Any] = []
        seconds: list[float] = []
        failures: dict[int, Failure] = {}
        retried: dict[int, int] = {}
        for number in range(len(points)):
            argument = x.move(number)
            for attempt in range(n_attempts):
                began = perf_counter()
                try:
                    row = self._row(function(argument, *args, **kwargs))
                    if attempt:
                        retried[number] = attempt
                    break
                except (Exception, SystemExit) as error:
                    failure, row = self._failure(error, attempt + 1), None
            else:
                failures[number] = failure
            ended = perf_counter()
            x.move_back(number)
            rows.append(row)
            seconds.append(ended - began)
            if (failures and limits.raises) or (ends is not None and ended > ends):
                break
        return rows, seconds, failures, retried

    def _stacks(self, x: Argument, points: Points, limits: Limits, ends: float | None) -> _Finished:
        """Evaluate stacks of points; a stack that fails is evaluated again point by point, to find out where."""
        call, args = self._call, self._arguments().args
        rows: list[Any] = []
        seconds: list[float] = []
        failures: dict[int, Failure] = {}
        retried: dict[int, int] = {}
        size = max(1, _STACK_BYTES // max(x.base.nbytes, 1))
        while len(rows) < len(points):
            begin = len(rows)
            whole = min(size, len(points) - begin)
            attempt = 0  # of the first point by itself
            for n in [whole] * (whole > 1) + [1] * (limits.retries + 1):
                attempt += n == 1
                began = perf_counter()
                stack = np.stack([points.vector(number) for number in range(begin, begin + n)])
                new: list[Any] = [None]
                try:
                    values = call.function(stack.reshape(n, *call.form.shapes[0]), *args, **call.kwargs)
                except (Exception, SystemExit) as error:
                    failure = self._failure(error, attempt)
                else:
                    new = [self._row(value) for value in _unstacked(values, n)]
                    if attempt > 1:
                        retried[begin] = attempt - 1
                    break
            else:
                failures[begin] = failure
            ended = perf_counter()
            rows += new
            seconds += [(ended - began) / len(new)] * len(new)
            if (failures and limits.raises) or (ends is not None and ended > ends):
                break
        return rows, seconds, failures, retried

    def _row(self, value: Any) -> Any:
        """The flat value; a number itself if the value is one number of float64."""
        if self._are_numbers and type(value) is float:
            return value
        self.value_form, row = flat_value(value, self.value_form)
        self._are_numbers = self.value_form == _NUMBER
        return row[0] if self._are_numbers else np.array(row)  # it may be a view of the argument

    def _values(self, rows: Sequence[Any]) -> NDArray[np.inexact]:
        """The rows as one array, NaN for None."""
        form = self.value_form
        if form is None:
            return np.empty((len(rows), 0))
        if form == _NUMBER:
            return np.array(rows, np.float64).reshape(-1, 1)  # None becomes NaN
        values = np.full((len(rows), form.size), np.nan, form.dtype)
        for number, row in enumerate(rows):
            if row is not None:
                values[number] = row
        return values

    def _failure(self, error: BaseException, n_attempts: int) -> Failure:
        if isinstance(error, SystemExit):
            error = TrainingError(f"the function ended its process: sys.exit({error.code!r}).").with_traceback(
                error.__traceback__
            )
        self.error = error
        kind = "value" if isinstance(error, InputError) else "exception"
        if getattr(error, "timed_out", False):  # a program that was ended
            kind = "timeout"
        name = "" if isinstance(error, (InputError, TrainingError)) else f"{type(error).__qualname__}: "
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return Failure(kind, name + first_line(error), trace, n_attempts, platform.node())


_Finished = tuple[list[Any], list[float], dict[int, Failure], dict[int, int]]
"""Rows (None where the function failed), seconds; failures, and numbers of further attempts, by position."""


def _unstacked(values: Any, n: int) -> list[Any]:
    """The values of a vectorized function, one for each of ``n`` points."""
    if isinstance(values, Mapping):
        return [
            dict(zip(values, one, strict=True))
            for one in zip(*(_unstacked(v, n) for v in values.values()), strict=True)
        ]
    array = np.asarray(values)
    if array.ndim == 0 or len(array) != n:
        raise InputError(
            f"the function is vectorized and returned shape {array.shape} for {n} points; its first dimension must be "
            f"{n}, one value for each point."
        )
    return list(array)
