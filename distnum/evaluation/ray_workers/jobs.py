"""What a call of the workers asks for: the part of it that the dispatch does not know."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.outcomes import Failure, Limits

__all__ = ["Job", "Results", "name_of"]


class Results(Protocol):
    """Finished evaluations, as a dispatch sees them."""

    @property
    def numbers(self) -> NDArray[np.int64]: ...

    @property
    def seconds(self) -> NDArray[np.float64]: ...

    @property
    def failures(self) -> dict[int, Failure]: ...


R = TypeVar("R", bound=Results)


class Job(Protocol[R]):
    """What one call asks for.

    Attributes:
        function: Name of the function in tasks.
        pickled: The pickled function.
        limits: What an evaluation may cost.
        most_points: Largest number of points in one task.
    """

    function: str
    pickled: bytes
    limits: Limits
    most_points: int

    def draw(self, most: int) -> NDArray[np.int64]:
        """Numbers of new points, at most this many."""
        ...

    def n_new(self, at_least: int) -> int:
        """Number of points that ``draw`` will still return, or a number above ``at_least``."""
        ...

    def task(self, turn: int, numbers: NDArray[np.int64], budget_s: float, first: bool) -> tuple[Any, Any]:
        """The message for some points, and what does not fit into messages or None.

        Args:
            turn: Number of the call.
            numbers: Numbers of the points.
            budget_s: Seconds after which the worker begins no further point.
            first: Whether the worker has had no task of this call before.
        """
        ...

    def results(self, reply: bytes) -> tuple[R, bool]:
        """The results in a reply, and whether the worker keeps an exception to be raised."""
        ...

    def again(self, number: int) -> None:
        """Note that a point is tried again, as its worker has died."""
        ...

    def failed(self, number: int, failure: Failure) -> R:
        """The result of a point without a value."""
        ...

    def without(self, results: R, numbers: set[int]) -> R:
        """The results of other points than these."""
        ...

    def describe(self, number: int) -> str:
        """A phrase for a point, such as ``"where x[3] is moved by +6e-06"``."""
        ...


def name_of(pickled: bytes) -> str:
    """The name under which workers hold a function, the same for the same bytes."""
    return hashlib.blake2b(pickled, digest_size=16).hexdigest()
