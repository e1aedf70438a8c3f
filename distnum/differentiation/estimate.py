"""What a derivative will cost, before it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from distnum.common.text import duration
from distnum.differentiation.options import Options, Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.evaluation.backends import backend_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Estimate", "estimate"]

# The function is evaluated for at most about this many seconds in all, at least once and at most this many times.
_TRIAL_S, _MOST_TRIALS = 0.5, 20
# Seconds of the driver for each evaluation on a worker: with more workers it hands out no faster.
_HANDING_OUT_S = 50e-6


@dataclass(frozen=True)
class Estimate:
    """What a derivative will cost.

    Attributes:
        evaluations: Number of evaluations; more if some coordinates are searched.
        seconds_each: Seconds of one evaluation: the median of those that were made.
        seconds: Seconds of all evaluations on the workers that were asked for, once they have started.
        memory: Bytes of the result.
        workers: Number of workers beyond which the evaluations take no less time: as many as there are evaluations, or
            as the driver can keep busy.
    """

    evaluations: int
    seconds_each: float
    seconds: float
    memory: int
    workers: int

    def __str__(self) -> str:
        return (
            f"{self.evaluations:,} evaluations of {duration(self.seconds_each)}: {duration(self.seconds)}, "
            f"{self.memory / 2**20:,.1f} MiB; up to {self.workers:,} workers pay."
        )


def estimate(fun: Callable[..., Any], x: Any, **options: Unpack[Options]) -> Estimate:
    """What ``differentiate(fun, x, **options)`` will cost.

    ``fun(x)`` is evaluated a few times, where the derivative would evaluate it: on a worker, under the same time limit.

    Args:
        fun, x, **options: As for ``differentiate``.

    Raises:
        InputError, NotFiniteError, Exception: As ``differentiate``, for ``fun(x)``.

    >>> import numpy as np
    >>> estimate(lambda x: float(x @ x), np.ones(10)).evaluations
    21
    """
    request = Request.of(fun, x, options)
    times: list[float] = []
    with backend_of(request.workers, request.address) as backend:
        began = perf_counter()
        while not times or (perf_counter() - began < _TRIAL_S and len(times) < _MOST_TRIALS):
            rounds = Rounds(request, backend, keep_table=False)
            for outcomes in rounds.evaluate(Places.of_base(request.x)):
                times += outcomes.seconds.tolist()
            m = len(rounds.known_base)
        n_workers = backend.n_workers
    n = request.n_evaluations
    size = m * len(request.x) if request.sparsity is None else len(request.sparsity.outputs)
    each = float(np.median(times))
    useful = max(1, min(n, ceil(each / _HANDING_OUT_S)))
    rounds_of_workers = ceil(n / max(1, min(n_workers, useful)))
    return Estimate(n, each, rounds_of_workers * each, size * request.x.itemsize, useful)
