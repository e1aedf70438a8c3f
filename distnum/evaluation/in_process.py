"""Evaluations in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from distnum.common.errors import InputError
from distnum.common.machine import single_threaded_blas
from distnum.evaluation.call import Caller, FunctionCall
from distnum.evaluation.errors import raised_at
from distnum.evaluation.outcomes import Limits, Outcomes
from distnum.evaluation.points import Points

__all__ = ["InProcess"]

# Outcomes are yielded about this often, in seconds.
_YIELD_S = 0.05
# Points of one part; a longer one would take memory and, with few points left to do, time.
_MOST_POINTS = 4096


class InProcess:
    """A ``Backend`` that calls the function in this process."""

    n_workers = 1

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points in their order, some at a time.

        Raises:
            InputError: A time limit is given, which cannot be kept in this process.
            Exception: With ``limits.raises``, the function's own exception.
        """
        if limits.timeout is not None:
            raise InputError(
                f"timeout is {limits.timeout:g}, but an evaluation in this process cannot be ended; use workers=1 or "
                "more."
            )
        caller = Caller(call)
        n_done = 0
        while n_done < len(points):
            numbers = np.arange(n_done, min(n_done + _MOST_POINTS, len(points)))
            with single_threaded_blas():
                outcomes = caller.evaluate(points, numbers, limits, perf_counter() + _YIELD_S)
            yield outcomes
            if limits.raises and outcomes.failures:
                assert caller.error is not None
                raise raised_at(caller.error, describe(int(outcomes.numbers[-1])))
            n_done += len(outcomes.numbers)
        caller.check_arguments()
