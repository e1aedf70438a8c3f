"""A model of the parts of a step, fitted to measurements of scaling, and what it foretells."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np

from distnum.scaling.summary import Draws, Interval

__all__ = ["COEFFICIENTS", "Forecast", "Link", "ScalingModel", "expected_maximum", "explained"]


NODE_IS = ("measured", "assumed", "undivided")
"""``"undivided"``: all nodes had as many workers, so that what a node takes cannot be told from what these take."""
_MOST_WORKERS = 2**20


def expected_maximum(k: int) -> float:
    """How far the largest of ``k`` standard normal numbers lies above their mean (G. Blom 1958; to 5 % at ``k`` = 2).

    >>> [round(expected_maximum(k), 2) for k in (1, 2, 4, 16, 1024)]
    [0.0, 0.59, 1.05, 1.77, 3.23]
    """
    return NormalDist().inv_cdf((k - 0.375) / (k + 0.25))


@dataclass(frozen=True)
class Link:
    """What joins nodes that were not measured: the driver's link.

    Attributes:
        gbit_per_s: of it.
    """

    gbit_per_s: float = 10.0

    def seconds(self, n_bytes: float) -> float:
        """What so many bytes take on it."""
        return 8 * n_bytes / (self.gbit_per_s * 1e9)


@dataclass(frozen=True)
class Forecast:
    """What a number of workers is expected to give.

    Attributes:
        workers, nodes: how many.
        step_s, speed_up, efficiency: beside one worker.
        parts: seconds of each of ``PARTS``.
        largest: the part that takes most beside the work that is shared.
    """

    workers: int
    nodes: int
    step_s: Interval
    speed_up: Interval
    efficiency: Interval
    parts: dict[str, float]
    largest: str

    def to_dict(self) -> dict[str, Any]:
        return {name: value._asdict() if isinstance(value, Interval) else value for name, value in vars(self).items()}


COEFFICIENTS = {
    "work_s": "computing that is shared among the workers",
    "repeated_s": "computing that every worker repeats",
    "jitter_s": "how unequally long equal work takes (one standard deviation)",
    "broadcast_s": "laying out the parameters",
    "node_s": "taking them to one more node",
    "dispatch_s": "asking the workers, whatever their number",
    "worker_dispatch_s": "asking one worker",
    "gather_s": "waiting for answers, whatever their number",
    "worker_gather_s": "taking one answer, less what overlaps with asking",
    "update_s": "checking and applying the gradient",
    "other_s": "the rest, whatever the number of workers",
    "worker_other_s": "the same for each worker",
}
"""The coefficients of a ``ScalingModel``, all in seconds.

None is negative but those of gathering, where workers compute while others are still being asked;
together with those of asking they are not.
"""


@dataclass(frozen=True)
class ScalingModel:
    """A step of ``k`` workers as the sum of its parts.

    The slowest worker computes for ``repeated_s + balance(k) work_s / k + jitter_s m(k)``, where
    ``m(k)`` is ``expected_maximum``. In weak scaling the work of each is the same, and what every
    worker repeats grows with ``k``.
    Asking and gathering take a constant and a time for each worker; broadcasting a constant and a
    time for each node beyond the first. Where no more than one node was measured, the answers take as
    long on the driver's link as the parameters to one node.

    Attributes:
        coefficients: by the names in ``COEFFICIENTS``, over the draws.
        weak: the mode.
        balance: of the shards of ``k`` workers, as they are planned.
        threads: of each worker.
        workers_per_node: for numbers of workers that were not measured.
        measured: numbers of workers that it was fitted on.
        n_nodes: the most that were measured.
        node_is: how ``node_s`` is known, of ``NODE_IS``.
        worst_error: the largest relative error of a measured step, which says little of a model that was fitted
            on two numbers of workers.
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
        """Seconds of each of ``PARTS``; what taking the parameters to the nodes needs stands under broadcast."""
        c = self.coefficients
        n_nodes = ceil(k / self.workers_per_node) if n_nodes is None else n_nodes
        shared = c["work_s"] if self.weak else c["work_s"] / k
        repeated = c["repeated_s"] * (k if self.weak else 1)
        answers = c["node_s"] if n_nodes > self.n_nodes == 1 else 0.0
        return {
            "broadcast_s": c["broadcast_s"] + c["node_s"] * (n_nodes - 1),
            "dispatch_s": c["dispatch_s"] + c["worker_dispatch_s"] * k,
            "compute_s": repeated + shared * self.balance(k) + c["jitter_s"] * expected_maximum(k),
            "gather_s": c["gather_s"] + c["worker_gather_s"] * k + answers,
            "update_s": c["update_s"],
            "other_s": c["other_s"] + c["worker_other_s"] * k,
        }

    def step_s(self, k: int, n_nodes: int | None = None) -> Draws:
        """Seconds of a step."""
        return np.sum(list(self.parts(k, n_nodes).values()), axis=0)

    def forecast(self, k: int) -> Forecast:
        """What ``k`` workers are expected to give beside one."""
        parts, step_s = self.parts(k), self.step_s(k)
        speed_up = self.step_s(1) / step_s * (k if self.weak else 1)
        shared = self.coefficients["work_s"][0] / (1 if self.weak else k)
        values = {part: float(draws[0]) for part, draws in parts.items()}
        beside = values | {"compute_s": values["compute_s"] - float(shared)}
        return Forecast(
            k,
            ceil(k / self.workers_per_node),
            Interval.of(step_s),
            Interval.of(speed_up),
            Interval.of(speed_up / k),
            values,
            max(beside, key=lambda part: beside[part]),
        )

    def bottleneck(self) -> tuple[int, str] | None:
        """From how many workers on half of a step is not shared work, and what most of that is; None if never."""

        def is_shared(k: int) -> bool:
            return float(self.coefficients["work_s"][0]) / (1 if self.weak else k) >= self.step_s(k)[0] / 2

        most = 1
        while is_shared(most):
            most *= 2
            if most > _MOST_WORKERS:
                return None
        k = most // 2 + 1 + bisect_left(range(most // 2 + 1, most), True, key=lambda k: not is_shared(k))
        return k, self.forecast(k).largest


def explained(coefficients: Mapping[str, Draws]) -> dict[str, dict[str, Any]]:
    """The coefficients with their intervals and what they mean."""
    return {name: Interval.of(coefficients[name])._asdict() | {"is": what} for name, what in COEFFICIENTS.items()}
