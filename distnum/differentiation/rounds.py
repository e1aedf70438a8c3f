"""Evaluates the points of a differentiation, round by round; counts and records what was evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError, NotFiniteError, TrainingError
from distnum.differentiation.derivative import FailedPoint
from distnum.differentiation.options import Request
from distnum.differentiation.progress import Progress
from distnum.differentiation.record import Record, name_of_point
from distnum.evaluation.outcomes import Backend, Failure, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.values import ValueForm, flat_value

__all__ = ["Places", "Rounds"]


@dataclass(frozen=True)
class Places:
    """Points of one round, as a rule each with one moved coordinate.

    Attributes:
        coordinates: Index of the moved coordinate, -1 for ``x`` itself, -2 for a point off the axes, -3 or less
            for a group of coordinates, shape ``(p,)``.
        offsets: By how much it is moved, shape ``(p,)``, real or complex.
        points: The points.
    """

    coordinates: NDArray[np.int64]
    offsets: NDArray[np.inexact]
    points: Points

    @classmethod
    def of_base(cls, x: NDArray[np.floating], count: int = 1) -> Places:
        """The point ``x`` itself, ``count`` times."""
        points = Points(x, np.empty(0, np.int64), x[:0], np.zeros(count + 1, np.int64))
        return cls(np.full(count, -1), np.zeros(count), points)

    @classmethod
    def of_moves(cls, x: NDArray[np.floating], coordinates: NDArray[np.int64], values: NDArray[np.inexact]) -> Places:
        """Points that have a value in place of one coordinate each."""
        return cls(coordinates, values - x[coordinates], Points.moved(x, coordinates, values))

    @classmethod
    def of_groups(
        cls,
        x: NDArray[np.floating],
        coordinates: NDArray[np.int64],
        values: NDArray[np.inexact],
        starts: NDArray[np.int64],
        groups: NDArray[np.int64],
    ) -> Places:
        """Points that move several coordinates each. Such a point has -3 minus the number of its group as coordinate.

        Args:
            x: The base point.
            coordinates, values: What is moved, and to where, point after point.
            starts: Where the moves of each point start, and the end of the last.
            groups: The group of each point.
        """
        first = starts[:-1]
        single = np.diff(starts) == 1
        offsets = values[first] - x[coordinates[first]]
        return cls(np.where(single, coordinates[first], -3 - groups), offsets, Points(x, coordinates, values, starts))

    @classmethod
    def joined(cls, parts: list[Places]) -> Places:
        """The points of several parts, one part after the other."""
        return cls(
            np.concatenate([part.coordinates for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            Points.joined([part.points for part in parts]),
        )


class Rounds:
    """Evaluates the function of a request.

    Args:
        request: What is differentiated.
        backend: Who evaluates.
        keep_table: Whether to keep every evaluation for ``table``.

    Attributes:
        base: Flat value at ``x``, shape ``(m,)``; None before it is known.
        value_form: Form of the function's value; None before it is known.
        failed: Failures, with coordinate and offset.
        n_evals, n_cached, n_retried: Numbers of evaluations, of those found in a store, and of further attempts.
        evaluation_seconds: Seconds of all evaluations, summed over the workers.
        stopped: Whether the deadline has ended a round.
        phase: What is evaluated, as it is shown.
    """

    def __init__(self, request: Request, backend: Backend, keep_table: bool) -> None:
        self._request = request
        self._backend = backend
        self.record = Record(request.form) if keep_table else None
        self._progress = Progress(request.progress, lambda: int(getattr(backend, "n_workers", 0)))
        self.phase = "evaluations"
        self._not_finite = ""
        self._began = perf_counter()
        self.base: NDArray[np.inexact] | None = None
        self.value_form: ValueForm | None = None
        self.failed: list[tuple[int, Any, Failure]] = []
        self.n_evals = self.n_cached = self.n_retried = 0
        self.evaluation_seconds = 0.0
        self.stopped = False
        if request.f0 is not None:
            self.value_form, self.base = flat_value(request.f0, None)

    def evaluate(self, places: Places, raises: bool | None = None) -> Iterator[Outcomes]:
        """Yield outcomes of the points, in any order, until all are there or the deadline has passed.

        Args:
            places: The points.
            raises: Whether exceptions of the function are raised; by default as the request says.

        Raises:
            InputError: The values have different forms, or the function changes its argument.
            Exception: The function's own, unless failures are to be survived.
        """
        request = self._request
        limits = request.limits if raises is None else replace(request.limits, raises=raises)
        ends = None if request.deadline is None else self._began + request.deadline
        limits = replace(limits, ends=ends)

        def describe(number: int) -> str:
            return self.describe(int(places.coordinates[number]), places.offsets[number])

        n_left = len(places.points)
        outcomes_of = self._backend.evaluate(request.call, places.points, limits, describe)
        with self._progress.round(self.phase, len(places.points)):
            for outcomes in outcomes_of:
                if len(outcomes.numbers):
                    if outcomes.form is not None and self.value_form is not None:
                        outcomes = replace(outcomes, values=self.value_form.aligned(outcomes.values, outcomes.form))
                    self._progress.update(outcomes)
                    self._learn(places, outcomes)
                    n_left -= len(outcomes.numbers)
                    yield outcomes
                if ends is not None and perf_counter() > ends:
                    break
        if n_left:
            self.stopped = ends is not None and perf_counter() > ends
            if not self.stopped:
                raise InputError(f"{n_left} of {len(places.points)} evaluations were not returned.")
        close = getattr(outcomes_of, "close", None)
        if close is not None:
            close()

    def evaluate_all(self, places: Places, raises: bool | None = None) -> NDArray[np.inexact]:
        """Values of all points, shape ``(p, m)``; NaN where the function failed or was not evaluated."""
        values: NDArray[np.inexact] | None = None
        for outcomes in self.evaluate(places, raises):
            if outcomes.form is not None:
                if values is None:
                    values = np.full((len(places.points), outcomes.form.size), np.nan, outcomes.values.dtype)
                values[outcomes.numbers] = outcomes.values
        if values is None:
            values = np.full((len(places.points), 0 if self.base is None else len(self.base)), np.nan)
        return values

    def difference_of_repeats(self) -> float:
        """Evaluate the function at ``x`` again; return the largest difference from its first value there."""
        again, base = self.evaluate_all(Places.of_base(self._request.x)), self.known_base
        if again.shape != (1, len(base)) or np.array_equal(again[0], base, equal_nan=True):
            return 0.0
        difference = np.abs(again[0] - base)
        return float(difference.max(initial=0.0, where=np.isfinite(difference)))

    def describe(self, coordinate: int, offset: Any) -> str:
        """Phrase for a point, such as ``"where x[3] is moved by +6e-06"``."""
        if coordinate == -1:
            return f"at {self._request.form.what} itself"
        if coordinate == -2:
            return "at a point in a random direction"
        if coordinate <= -3:
            return f"where the coordinates of group {-3 - coordinate} of sparsity are moved together"
        name = self._request.form.entry_name(coordinate)
        by = f"{offset.imag:+.6g}j" if np.iscomplexobj(offset) else f"{offset:+.6g}"
        return f"where {name} is moved by {by}"

    def _learn_form(self, form: ValueForm) -> None:
        known = self.value_form
        if known is None:
            self.value_form = form
        elif form.dtype != known.dtype:
            self.value_form = replace(known, dtype=np.result_type(form.dtype, known.dtype).name)

    def _learn(self, places: Places, outcomes: Outcomes) -> None:
        if outcomes.form is not None:
            self._learn_form(outcomes.form)
            if self.base is None:
                at_base = np.flatnonzero(places.coordinates[outcomes.numbers] == -1)
                if len(at_base) and int(outcomes.numbers[at_base[0]]) not in outcomes.failures:
                    self.base = np.array(outcomes.values[at_base[0]])
        for number, failure in outcomes.failures.items():
            self.failed.append((int(places.coordinates[number]), places.offsets[number], failure))
            self.n_retried += failure.attempts - 1
        self.n_retried += sum(outcomes.retried.values())
        if outcomes.cached:
            self.n_cached += len(outcomes.numbers)
        else:
            self.n_evals += len(outcomes.numbers)
            self.evaluation_seconds += float(np.nansum(outcomes.seconds))
        if self.record is not None:
            self.record.add(places.coordinates, places.offsets, outcomes)
        if outcomes.form is not None and not self._not_finite and not np.isfinite(outcomes.values).all():
            for position in np.flatnonzero(~np.isfinite(outcomes.values).all(axis=1)).tolist():
                number = int(outcomes.numbers[position])
                if number not in outcomes.failures:
                    values = outcomes.values[position]
                    value = values[~np.isfinite(values)][0]
                    where = self.describe(int(places.coordinates[number]), places.offsets[number])
                    self._not_finite = f"The function is {value} {where}."
                    break

    @property
    def known_base(self) -> NDArray[np.inexact]:
        """Flat value at ``x``, shape ``(m,)``; some outputs may be NaN or infinite unless ``on_error`` is ``"raise"``.

        Raises:
            NotFiniteError, TrainingError: The function is not finite there, or has failed.
        """
        self.check_base()
        assert self.base is not None
        return self.base

    def check_base(self) -> None:
        """Refuse to go on without a finite value at ``x``; of one output if failures are to be survived, else of all.

        Raises:
            NotFiniteError, TrainingError: The function is not finite there, or has failed.
        """
        what = self._request.form.what
        if self.base is None:
            text = next((failure.text for coordinate, _, failure in self.failed if coordinate == -1), "")
            if text:
                raise TrainingError(f"The function has no value at {what} itself: {text}")
            raise TrainingError(
                f"The deadline of {self._request.deadline:g} s was over before the value at {what} itself."
            )
        finite = np.isfinite(self.base)
        if not finite.all() and (self._request.on_error == "raise" or not finite.any()):
            first = int(finite.argmin())
            text = f"The function is {self.base[first]} at {what} itself"
            if not finite.any() or self.value_form is None:
                raise NotFiniteError(f"{text}; it must be finite there.")
            raise NotFiniteError(
                f"{text}, in {self.value_form.entry_name(first)}; it must be finite there. on_error='nan' "
                "differentiates the other outputs."
            )

    @property
    def n_outputs(self) -> int | None:
        """Numbers in a value; None before it is known."""
        return None if self.value_form is None else self.value_form.size

    def first_not_finite(self) -> str:
        """Sentence about the first value that was not finite; or about a failure."""
        if self._not_finite:
            return self._not_finite
        if not self.failed:
            return f"The function has values near {self._request.form.what}, but no finite derivative there."
        coordinate, offset, failure = self.failed[0]
        return f"The function failed {self.describe(coordinate, offset)}: {failure.text}"

    def failures(self) -> list[FailedPoint]:
        """The points that have failed."""
        form = self._request.form
        return [
            FailedPoint(name_of_point(form, coordinate), offset, failure) for coordinate, offset, failure in self.failed
        ]
