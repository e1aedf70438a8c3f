"""A model of the parts of a step, fitted to measurements of scaling, and what it foretells."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.errors import InputError
from distnum.scaling import Measurement
from distnum.scaling_summary import Draws, Interval, Summary, medians_by_draw, summarise

__all__ = [
    "COEFFICIENTS",
    "Forecast",
    "Network",
    "ScalingModel",
    "amdahl",
    "explained",
    "fit_model",
    "universal_scalability",
]

NODE_IS = ("measured", "assumed", "undivided")
"""``"undivided"``: all nodes had as many workers, so that what a node takes cannot be told from what these take."""

_MOST_WORKERS = 2**20


def _least_squares(
    columns: Sequence[NDArray[np.float64]], values: NDArray[np.float64], step_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients, none of them negative, with which errors are least in parts of a step.

    Args:
        columns: what each coefficient is multiplied with, one number a setting.
        values: seconds of a part, shape ``(n_settings, n_draws)``; a draw with NaN has no coefficients.
        step_s: of the whole step, the same shape.

    Returns:
        shape ``(n_columns, n_draws)``.
    """
    from scipy.optimize import nnls

    matrix = np.stack(columns, axis=1)
    found = np.full((len(columns), values.shape[1]), np.nan)
    for draw in np.flatnonzero(np.isfinite(values / step_s).all(axis=0)):
        weights = 1 / step_s[:, draw]
        found[:, draw] = nnls(matrix * weights[:, None], values[:, draw] * weights)[0]
    return found


def expected_maximum(k: int) -> float:
    """How far the largest of ``k`` standard normal numbers lies above their mean (G. Blom 1958; to 5 % at ``k`` = 2).

    >>> [round(expected_maximum(k), 2) for k in (1, 2, 4, 16, 1024)]
    [0.0, 0.59, 1.05, 1.77, 3.23]
    """
    return NormalDist().inv_cdf((k - 0.375) / (k + 0.25))


@dataclass(frozen=True)
class Network:
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


def fit_model(
    measurements: Sequence[Measurement],
    balance: Callable[[int], float],
    n_bytes: float,
    network: Network,
    threads: int | None = None,
    at_most: int | None = None,
    workers_per_node: int | None = None,
) -> ScalingModel:
    """The model of the measurements with one number of threads: by default the smallest with two numbers of workers.

    Settings with more busy threads than cores are left out: they say how cores are shared.

    Args:
        measurements: of one mode.
        balance: of the shards of ``k`` workers.
        n_bytes: of the parameters.
        network: what is assumed of nodes, where the measurements do not tell.
        at_most: leaves out larger numbers of workers.
        workers_per_node: where the model foretells; by default the most that were measured.

    Raises:
        InputError: there are fewer than two numbers of workers.
    """
    crowded = {one.setting for one in summarise(measurements) if one.oversubscribed}
    sound = [one for one in measurements if one.setting not in crowded]
    sound = [one for one in sound if at_most is None or one.workers <= at_most]
    if threads is None:
        counts = Counter(setting.threads for setting in {one.setting for one in sound})
        threads = min((n for n, count in counts.items() if count > 1), default=min(counts, default=1))
    chosen = [one for one in sound if one.threads == threads]
    draws = medians_by_draw(chosen) if chosen else {}
    k = np.array([setting.workers for setting in draws], np.float64)
    if len(k) < 2:
        raise InputError(
            f"a model needs at least 2 numbers of workers that have no more busy threads than there are cores; it has "
            f"{len(k)}."
        )
    weak = chosen[0].mode == "weak"
    nodes = np.array([next(one.nodes for one in chosen if one.setting == setting) for setting in draws])

    def of(part: str) -> NDArray[np.float64]:
        return np.stack([values[part] for values in draws.values()])

    step_s = of("step_s")

    def fitted(columns: Sequence[NDArray[np.float64]], values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _least_squares(columns, values, step_s)

    ones = np.ones(len(k))
    c: dict[str, Draws] = {}
    if weak:
        c["work_s"], c["repeated_s"] = fitted([ones, k], of("mean_compute_s"))
    else:
        c["work_s"], c["repeated_s"] = fitted([1 / k, ones], of("mean_compute_s"))
    shared = c["work_s"][None] / (1 if weak else k[:, None])
    planned = np.array([balance(int(n)) for n in k])[:, None]
    unequal = of("compute_s") - of("mean_compute_s") - (planned - 1) * shared
    (c["jitter_s"],) = fitted([np.array([expected_maximum(int(n)) for n in k])], unequal)
    (c["broadcast_s"],) = fitted([ones], of("broadcast_s"))
    for part in ("dispatch", "other"):
        c[f"{part}_s"], c[f"worker_{part}_s"] = fitted([ones, k], of(f"{part}_s"))
    # The driver only lays the parameters out. Nodes take them before their workers can compute,
    # while it waits for answers. And workers compute while others are asked: so what is not
    # negative is asking and gathering together.
    both, beyond = of("dispatch_s") + of("gather_s"), nodes - 1.0
    node_is = "assumed"
    if np.linalg.matrix_rank(np.stack([ones, k, beyond])) == 3:
        node_is = "measured"
    elif beyond.max() > 0 and np.ptp(k / nodes) == 0 and len(set(nodes)) > 1:
        node_is = "undivided"
    if node_is == "assumed":
        # No more than would leave nothing for the rest.
        most = (both[beyond > 0] / beyond[beyond > 0, None]).min(axis=0, initial=network.seconds(n_bytes))
        c["node_s"] = np.maximum(most, 0)
        constant, each = fitted([ones, k], both - beyond[:, None] * c["node_s"])
    else:
        constant, each, c["node_s"] = fitted([ones, k, beyond], both)
    c["gather_s"], c["worker_gather_s"] = constant - c["dispatch_s"], each - c["worker_dispatch_s"]
    (c["update_s"],) = fitted([ones], of("update_s"))
    if workers_per_node is None:
        workers_per_node = int(np.ceil(k / nodes).max())
    measured, n_nodes = tuple(int(n) for n in k), int(nodes.max())
    model = ScalingModel(c, weak, balance, threads, workers_per_node, measured, n_nodes, node_is)
    errors = [abs(model.step_s(int(n), int(m))[0] / v[0] - 1) for n, m, v in zip(k, nodes, step_s, strict=True)]
    return replace(model, worst_error=float(max(errors)))


def amdahl(summaries: Sequence[Summary]) -> dict[str, float]:
    """``T(k) = T(1) (s + (1 - s) / k)`` (G. Amdahl 1967): the serial share ``s``, and the largest relative error."""
    k = np.array([one.setting.cores for one in summaries], np.float64)
    step_s = np.array([one.step_s.value for one in summaries])
    serial, shared = _least_squares([np.ones(len(k)), 1 / k], step_s[:, None], step_s[:, None])[:, 0]
    return {"serial": serial / (serial + shared), "worst_error": _worst(serial + shared / k, step_s)}


def universal_scalability(summaries: Sequence[Summary]) -> dict[str, float]:
    """``T(k) = T(1) (1 + sigma (k - 1) + kappa k (k - 1)) / k`` (N. Gunther 2007): sigma, kappa, and the error.

    They are infinite where the steps leave nothing for ``T(1)``.
    """
    k = np.array([one.setting.cores for one in summaries], np.float64)
    step_s = np.array([one.step_s.value for one in summaries])
    columns = [1 / k, (k - 1) / k, k - 1]
    first, contention, coherence = _least_squares(columns, step_s[:, None], step_s[:, None])[:, 0]
    found = columns[0] * first + columns[1] * contention + columns[2] * coherence
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma, kappa = contention / first, coherence / first
    return {"sigma": sigma, "kappa": kappa, "worst_error": _worst(found, step_s)}


def _worst(found: NDArray[np.float64], measured: NDArray[np.float64]) -> float:
    return float(np.abs(found / measured - 1).max())


def explained(coefficients: Mapping[str, Draws]) -> dict[str, dict[str, Any]]:
    """The coefficients with their intervals and what they mean."""
    return {name: Interval.of(coefficients[name])._asdict() | {"is": what} for name, what in COEFFICIENTS.items()}
