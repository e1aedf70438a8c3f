"""What evaluations return: values, and failures with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.points import Points
from distnum.evaluation.values import ValueForm

if TYPE_CHECKING:
    from distnum.evaluation.call import FunctionCall

__all__ = ["Backend", "Failure", "Limits", "Outcomes"]


@dataclass(frozen=True)
class Failure:
    """Why an evaluation has no value.

    Attributes:
        kind: ``"exception"``, ``"value"`` (not a number, or of another form than before), ``"timeout"``, ``"crash"``
            (the function ended its process) or ``"lost"`` (its workers were lost again and again).
        text: The reason in one line.
        traceback: Traceback of the exception, or where the function was when its time was over; "" if unknown.
        attempts: Number of times that the point was tried.
        host: Name of the machine of the last attempt.
    """

    kind: str
    text: str
    traceback: str = ""
    attempts: int = 1
    host: str = ""


@dataclass(frozen=True)
class Outcomes:
    """Finished evaluations.

    Attributes:
        numbers: Numbers of the points, shape ``(k,)``.
        values: Flat values of the function, shape ``(k, m)``, float or complex; NaN where it failed.
        form: Form of the values; None if all of them failed (``values`` then has the shape ``(k, 0)``).
        seconds: Duration of each evaluation, shape ``(k,)``.
        failures: Failures by the number of the point.
        host: Name of the machine.
        cached: Whether the values were in a store.
        retried: Numbers of further attempts that were needed, by the number of a point that has not failed in the end.
    """

    numbers: NDArray[np.int64]
    values: NDArray[np.inexact]
    form: ValueForm | None
    seconds: NDArray[np.float64]
    failures: dict[int, Failure] = field(default_factory=dict)
    host: str = ""
    cached: bool = False
    retried: dict[int, int] = field(default_factory=dict)

    def renumbered(self, numbers: NDArray[np.int64]) -> Outcomes:
        """The same of points with other numbers: ``numbers[k]`` in place of ``k``."""
        return replace(
            self,
            numbers=numbers[self.numbers],
            failures={int(numbers[number]): failure for number, failure in self.failures.items()},
            retried={int(numbers[number]): count for number, count in self.retried.items()},
        )


@dataclass(frozen=True)
class Limits:
    """What an evaluation may cost.

    Attributes:
        timeout: Seconds after which an evaluation is ended, with its process and its children; None for no limit.
        retries: Number of times that an evaluation is tried again after an exception, a timeout or a crash.
        ends: Time, by the driver's ``perf_counter``, after which nobody waits for further outcomes.
        raises: Whether the first exception that remains after the retries is raised; otherwise it is a ``Failure``.
    """

    timeout: float | None = None
    retries: int = 0
    raises: bool = True
    ends: float | None = None


class Backend(Protocol):
    """Evaluates functions: in this process, through a map or an executor, or on Ray workers."""

    @property
    def n_workers(self) -> int:
        """Number of evaluations at the same time."""
        ...

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points, some at a time, in any order.

        Closing the iterator abandons what is not finished.

        Args:
            call: The function.
            points: Where to evaluate it.
            limits: What an evaluation may cost.
            describe: Returns a phrase for the number of a point, such as ``"where x[3] is moved by +6e-06"``.

        Raises:
            Exception: With ``limits.raises``, the function's own exception; its cause says where it was raised.
            LostError: The workers, or the cluster, are lost.
        """
        ...
