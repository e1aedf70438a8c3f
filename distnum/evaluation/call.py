"""A user's function with the form of its argument, and the calls of it at points.

A ``Caller`` runs in the driver and in workers alike, so values and failures are the same in both.
"""

from __future__ import annotations

import inspect
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line
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
        function: Called as ``function(x, *args, **kwargs)``.
        form: Form of ``x``.
        args, kwargs: Further arguments.
        vectorized: Whether ``function`` takes several points at once, as an array of shape ``(k, *x.shape)``, and
            returns ``k`` values. ``x`` is then one array.
    """

    function: Callable[..., Any]
    form: Form
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    vectorized: bool = False


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
        self.value_form: ValueForm | None = None
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
            InputError: The function changes its argument.
        """
        self.error = None
        part = points.take(numbers)
        x = _Argument(self._call.form, part)
        evaluate = self._stacks if self._call.vectorized else self._one_by_one
        rows, seconds, failures = evaluate(x, part, limits, ends)
        x.check_unchanged()
        numbers = numbers[: len(rows)]
        named = {int(numbers[position]): failure for position, failure in failures.items()}
        return Outcomes(numbers, self._values(rows), self.value_form, np.array(seconds), named, platform.node())

    def _one_by_one(self, x: _Argument, points: Points, limits: Limits, ends: float | None) -> _Finished:
        call = self._call
        function, args, kwargs = call.function, call.args, call.kwargs
        n_attempts = limits.retries + 1
        rows: list[Any] = []
        seconds: list[float] = []
        failures: dict[int, Failure] = {}
        for number in range(len(points)):
            argument = x.move(number)
            for attempt in range(n_attempts):
                began = perf_counter()
                try:
                    row = self._row(function(argument, *args, **kwargs))
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
        return rows, seconds, failures

    def _stacks(self, x: _Argument, points: Points, limits: Limits, ends: float | None) -> _Finished:
        """Evaluate stacks of points; a stack that fails is evaluated again point by point, to find out where."""
        call = self._call
        rows: list[Any] = []
        seconds: list[float] = []
        failures: dict[int, Failure] = {}
        size = max(1, _STACK_BYTES // max(x.base.nbytes, 1))
        while len(rows) < len(points):
            begin = len(rows)
            for n in (min(size, len(points) - begin), 1):
                began = perf_counter()
                stack = np.stack([points.vector(number) for number in range(begin, begin + n)])
                new: list[Any] = [None]
                try:
                    values = call.function(stack.reshape(n, *call.form.shapes[0]), *call.args, **call.kwargs)
                except (Exception, SystemExit) as error:
                    failure = self._failure(error, 1)
                else:
                    new = [self._row(value) for value in _unstacked(values, n)]
                    break
            else:
                failures[begin] = failure
            ended = perf_counter()
            rows += new
            seconds += [(ended - began) / len(new)] * len(new)
            if (failures and limits.raises) or (ends is not None and ended > ends):
                break
        return rows, seconds, failures

    def _row(self, value: Any) -> Any:
        """The flat value; a number itself if the value is one number of float64."""
        if type(value) is float and self.value_form == _NUMBER:
            return value
        self.value_form, row = flat_value(value, self.value_form)
        return row[0] if self.value_form == _NUMBER else np.array(row)  # it may be a view of the argument

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


_Finished = tuple[list[Any], list[float], dict[int, Failure]]
"""Rows (None where the function failed), seconds, and failures by position."""


class _Argument:
    """The argument of a function, moved in place from point to point.

    Attributes:
        base: The base point, shape ``(n,)``, in the dtype of the moved values.
    """

    def __init__(self, form: Form, points: Points) -> None:
        self._form = form
        self.base = points.base.astype(np.result_type(points.base, points.values))
        self._x = self.base.copy()
        self._view = form.view(self._x)
        self._has_numbers = any(form.scalars)  # numbers cannot be changed in place
        starts = points.starts
        self._starts = None if np.all(np.diff(starts) == 1) else starts.tolist()
        self._entries: list[int] = points.entries.tolist()
        self._values: list[Any] = points.values.tolist()

    def move(self, number: int) -> Any:
        """The argument at a point, in the user's form."""
        if self._starts is None:
            self._x[self._entries[number]] = self._values[number]
        else:
            for position in range(self._starts[number], self._starts[number + 1]):
                self._x[self._entries[position]] = self._values[position]
        return self._form.view(self._x) if self._has_numbers else self._view

    def move_back(self, number: int) -> None:
        """Restore the base point."""
        if self._starts is None:
            entry = self._entries[number]
            if self._x[entry] != self._values[number]:
                self._refuse(entry, self._values[number])
            self._x[entry] = self.base[entry]
            return
        begin, end = self._starts[number], self._starts[number + 1]
        if begin == end:  # a function that changes its argument shall be found at the base point at once
            self.check_unchanged()
        for position in range(begin, end):
            entry = self._entries[position]
            if self._x[entry] != self._values[position]:
                self._refuse(entry, self._values[position])
            self._x[entry] = self.base[entry]

    def check_unchanged(self) -> None:
        """Refuse a function that has changed its argument.

        Raises:
            InputError: It has.
        """
        form, x, base = self._form, self._x, self.base
        if not self._has_numbers and not form.unchanged(self._view, x):
            raise InputError(
                f"the function replaces entries of its argument {form.what}; it must leave it as it is. Let it work on "
                "a copy."
            )
        if x.tobytes() == base.tobytes():
            return
        differs = (x.view(np.uint8) != base.view(np.uint8)).reshape(len(x), -1).any(axis=1)
        index = int(np.flatnonzero(differs)[0])
        self._refuse(index, base[index])

    def _refuse(self, index: int, before: Any) -> NoReturn:
        form = self._form
        raise InputError(
            f"the function changes its argument: {form.entry_name(index)} was {before:.6g} before a call and "
            f"{self._x[index]:.6g} after it. Let it work on a copy, as of {form.what}.copy()."
        )


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
