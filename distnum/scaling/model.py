"""Model of the parts of a step, and the forecasts that it gives."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np

from distnum.scaling.summary import Draws, Interval, with_intervals_as_dicts

__all__ = ["COEFFICIENTS", "Forecast", "Link", "ScalingModel", "expected_maximum", "explained"]

_MOST_WORKERS = 2**20


def expected_maximum(k: int) -> float:
    """Return the expected largest of ``k`` standard normal numbers (G. Blom 1958; within 5 % at ``k`` = 2).

    >>> [round(expected_maximum(k), 2) for k in (1, 2, 4, 16, 1024)]
    [0.0, 0.59, 1.05, 1.77, 3.23]
    """
    return NormalDist().inv_cdf((k - 0.375) / (k + 0.25))


@dataclass(frozen=True)
class Link:
    """The driver's network link, assumed where several nodes were not measured.

    Attributes:
        gbit_per_s: Bandwidth in Gbit/s.
    """

    gbit_per_s: float = 10.0

    def seconds(self, n_bytes: float) -> float:
        """Return the seconds that ``n_bytes`` bytes take."""
        return 8 * n_bytes / (self.gbit_per_s * 1e9)


@dataclass(frozen=True)
class Forecast:
    """Forecast of a step for one number of workers.

    Attributes:
        workers: Number of workers.
        nodes: Number of nodes.
        step_s: Seconds of a step.
        speed_up: Speed relative to one worker; in weak scaling, counted in work done.
        efficiency: ``speed_up`` divided by the number of workers.
        parts: Seconds of each of ``PARTS``.
        largest: The part that takes most time, apart from the shared work.
    """

    workers: int
    nodes: int
    step_s: Interval
    speed_up: Interval
    efficiency: Interval
    parts: dict[str, float]
    largest: str

    def to_dict(self) -> dict[str, Any]:
        return with_intervals_as_dicts(vars(self))


COEFFICIENTS = {
    "work_s": "computing that is shared among the workers",
    "repeated_s": "computing that every worker repeats",
    "jitter_s": "standard deviation of the time of equal work",
    "broadcast_s": "publishing the parameters",
    "node_s": "sending the parameters to one more node",
    "dispatch_s": "sending tasks, independent of the number of workers",
    "worker_dispatch_s": "sending one worker its task",
    "gather_s": "waiting for answers, independent of the number of workers",
    "worker_gather_s": "receiving one answer, minus its overlap with sending tasks",
    "update_s": "checking and applying the gradient",
    "other_s": "everything else, independent of the number of workers",
    "worker_other_s": "everything else, for each worker",
}
"""The coefficients of a ``ScalingModel``, all in seconds, with their meaning.

Only those of gathering may be negative: workers compute while tasks are still being sent to others.
The sums of dispatching and gathering are not negative.
"""


@dataclass(frozen=True)
class ScalingModel:
    """The time of a step on ``k`` workers, as the sum of its parts.

    The slowest worker computes for ``repeated_s + balance(k) work_s / k + jitter_s m(k)``, where
    ``m(k)`` is ``expected_maximum(k)``. In weak scaling the shared work per worker is constant, and
    the repeated work grows with ``k``. Dispatching and gathering take a constant and a time for each
    worker; broadcasting takes a constant and a time for each node after the first. If only one
    node was measured, the answers are assumed to take as long on the driver's link as the
    parameters to one node.

    Attributes:
        coefficients: Draws of each of ``COEFFICIENTS``.
        weak: Whether the measurements are of weak scaling.
        balance: Function of ``k``: load of the busiest shard relative to the mean, as planned.
        threads: Threads of each worker.
        workers_per_node: Workers on a node, for numbers of workers that were not measured.
        measured: Numbers of workers that the model was fitted to.
        n_nodes: Largest number of nodes measured.
        node_is: How ``node_s`` is known. ``"measured"``; ``"assumed"`` from the link; or ``"undivided"``,
            if all nodes had equally many workers, so that the time of a node cannot be separated
            from the time of its workers.
        worst_error: Largest relative error of a measured step. Says little if only two numbers of
            workers were measured.
    """

    coefficients: dict[str, Draws]
    weak: bool
    balance: Callable[[int], float]
    threads: int
    workers_per_node: int
    measured: tuple[int, ...]
    n_nodes: int = 1
    node_is: str = "assumed"
    worst_error: float = 0.0

    def parts(self, k: int, n_nodes: int | None = None) -> dict[str, Draws]:
        """Return the seconds of each of ``PARTS``. Sending the parameters to the nodes counts as broadcast."""
        c = self.coefficients
        n_nodes = ceil(k / self.workers_per_node) if n_nodes is None else n_nodes
        repeated = c["repeated_s"] * (k if self.weak else 1)
        answers = c["node_s"] if n_nodes > self.n_nodes == 1 else 0.0
        return {
            "broadcast_s": c["broadcast_s"] + c["node_s"] * (n_nodes - 1),
            "dispatch_s": c["dispatch_s"] + c["worker_dispatch_s"] * k,
            "compute_s": repeated + self._shared_s(k) * self.balance(k) + c["jitter_s"] * expected_maximum(k),
            "gather_s": c["gather_s"] + c["worker_gather_s"] * k + answers,
            "update_s": c["update_s"],
            "other_s": c["other_s"] + c["worker_other_s"] * k,
        }

    def step_s(self, k: int, n_nodes: int | None = None) -> Draws:
        """Return the seconds of a step."""
        return np.sum(list(self.parts(k, n_nodes).values()), axis=0)

    def forecast(self, k: int) -> Forecast:
        """Return the forecast for ``k`` workers, relative to one worker."""
        step_s = self.step_s(k)
        speed_up = self.step_s(1) / step_s * (k if self.weak else 1)
        parts = {part: float(draws[0]) for part, draws in self.parts(k).items()}
        not_shared = parts | {"compute_s": parts["compute_s"] - float(self._shared_s(k)[0])}
        return Forecast(
            k,
            ceil(k / self.workers_per_node),
            Interval.of(step_s),
            Interval.of(speed_up),
            Interval.of(speed_up / k),
            parts,
            max(not_shared, key=lambda part: not_shared[part]),
        )

    def bottleneck(self) -> tuple[int, str] | None:
        """Return the smallest number of workers for which less than half of a step is shared work.

        Returns:
            that number, and the part that takes most of the rest; None if there is no such number.
        """

        def is_shared(k: int) -> bool:
            return float(self._shared_s(k)[0]) >= self.step_s(k)[0] / 2

        most = 1
        while is_shared(most):
            most *= 2
            if most > _MOST_WORKERS:
                return None
        k = most // 2 + 1 + bisect_left(range(most // 2 + 1, most), True, key=lambda k: not is_shared(k))
        return k, self.forecast(k).largest

    def _shared_s(self, k: int) -> Draws:
        """Return the seconds of shared work of each of ``k`` workers."""
        return self.coefficients["work_s"] / (1 if self.weak else k)


def explained(coefficients: Mapping[str, Draws]) -> dict[str, dict[str, Any]]:
    """Return the coefficients with their intervals and meanings, as in ``scaling.json``."""
    return {name: Interval.of(coefficients[name])._asdict() | {"is": text} for name, text in COEFFICIENTS.items()}
