"""Messages between the driver and the workers that evaluate functions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.packing import packed, unpacked
from distnum.evaluation.outcomes import Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.values import ValueForm

__all__ = ["EvaluationTask", "packed_outcomes", "unpacked_outcomes", "unpacked_task"]


@dataclass(frozen=True)
class EvaluationTask:
    """A request for evaluations.

    Attributes:
        turn: Number of the call of the driver to which it belongs.
        function: Name under which the worker holds the function.
        numbers: Numbers of the points, shape ``(k,)``.
        limits: What an evaluation may cost.
        budget_s: Seconds after which no further point is begun; at least one is evaluated.
        points: The points of these numbers; None if they are sent by a call of Ray.
        with_base: Whether the message has the base point, as that of the first task of a turn.
        step: The step of the call; see ``FunctionCall``.
    """

    turn: int
    function: str
    numbers: NDArray[np.int64]
    limits: Limits
    budget_s: float
    points: Points | None = None
    with_base: bool = False
    step: int = 0

    def packed(self) -> bytes:
        """The message for the task."""
        limits = [self.limits.timeout, self.limits.retries, self.limits.raises]
        fields: dict[str, Any] = {"turn": self.turn, "function": self.function, "numbers": self.numbers}
        fields |= {"limits": limits, "budget_s": self.budget_s, "step": self.step}
        if self.points is not None:
            points = self.points
            fields |= {"entries": points.entries, "values": points.values, "starts": points.starts}
            if self.with_base:
                fields["base"] = points.base
        return packed(fields)


def unpacked_task(message: bytes, base: Array | None = None) -> EvaluationTask:
    """The task in a message.

    Args:
        message: The message.
        base: Base point of its turn, if an earlier message had it.

    Raises:
        ValueError: It is no message of a task.
    """
    fields = unpacked(message)
    try:
        timeout, retries, raises = fields["limits"]
        limits = Limits(timeout, int(retries), bool(raises))
        task = EvaluationTask(fields["turn"], fields["function"], fields["numbers"], limits, fields["budget_s"])
        if "entries" not in fields:
            return task
        with_base = "base" in fields
        base = fields["base"] if with_base else base
        if base is None:
            raise ValueError("no message of a task: the base point is missing")
        points = Points(base, fields["entries"], fields["values"], fields["starts"])
        return replace(task, points=points, with_base=with_base, step=int(fields["step"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no message of a task: {error}") from None


def packed_outcomes(outcomes: Outcomes, raised: bool) -> bytes:
    """The message for outcomes.

    Args:
        outcomes: The outcomes.
        raised: Whether the worker keeps an exception that is to be raised.
    """
    failures = [[number, *vars(failure).values()] for number, failure in outcomes.failures.items()]
    form = None if outcomes.form is None else json.dumps(outcomes.form.to_json())
    fields = {"numbers": outcomes.numbers, "values": outcomes.values, "seconds": outcomes.seconds, "form": form}
    retried = [list(pair) for pair in outcomes.retried.items()]
    return packed(fields | {"failures": failures, "host": outcomes.host, "raised": raised, "retried": retried})


def unpacked_outcomes(message: bytes) -> tuple[Outcomes, bool]:
    """The outcomes in a message, and whether the worker keeps an exception.

    Raises:
        ValueError: It is no message of outcomes.
    """
    fields = unpacked(message)
    try:
        form = None if fields["form"] is None else ValueForm.from_json(json.loads(fields["form"]))
        failures = {int(number): Failure(*rest) for number, *rest in fields["failures"]}
        outcomes = Outcomes(fields["numbers"], fields["values"], form, fields["seconds"], failures, fields["host"])
        retried = {int(number): int(count) for number, count in fields["retried"]}
        return replace(outcomes, retried=retried), bool(fields["raised"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no message of outcomes: {error}") from None
