"""Fit the model of a step, and two laws of the literature, to measurements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.scaling.measurement import Measurement
from distnum.scaling.model import Link, ScalingModel, expected_maximum
from distnum.scaling.summary import Draws, Summary, medians_by_draw, summarise

__all__ = ["amdahl", "fit_model", "universal_scalability"]

Columns = Sequence[NDArray[np.float64]]
"""Regressors, each of shape ``(n_settings,)``."""


def fit_model(
    measurements: Sequence[Measurement],
    balance: Callable[[int], float],
    n_bytes: float,
    link: Link,
    workers_per_node: int | None = None,
) -> ScalingModel:
    """Fit the model to the measurements with one number of threads: the smallest with two numbers of workers.

    Settings with more busy threads than cores are left out: they show how cores are shared.

    Args:
        measurements: Measurements of one mode.
        balance: Function of ``k``: load of the busiest of ``k`` shards relative to the mean.
        n_bytes: Size of the parameters in bytes.
        link: Link that is assumed where the measurements do not determine the time of a node.
        workers_per_node: Workers on a node in forecasts; by default the most that were measured.

    Raises:
        InputError: There are fewer than two numbers of workers.
    """
    chosen, threads = _choose(measurements)
    draws = medians_by_draw(chosen) if chosen else {}
    if len(draws) < 2:
        raise InputError(
            f"a model needs at least 2 numbers of workers that have no more busy threads than there are cores; it has "
            f"{len(draws)}."
        )
    weak = chosen[0].mode == "weak"
    k = np.array([setting.workers for setting in draws], np.float64)
    nodes = np.array([next(one.nodes for one in chosen if one.setting == setting) for setting in draws], np.float64)
    medians = _Medians(k, nodes, list(draws.values()))
    coefficients = _fit_computing(medians, balance, weak) | _fit_driver(medians)
    node_is = _how_nodes_are_known(medians)
    coefficients |= _fit_gathering(medians, coefficients, node_is, link.seconds(n_bytes))
    if workers_per_node is None:
        workers_per_node = int(np.ceil(k / nodes).max())
    measured, n_nodes = tuple(int(n) for n in k), int(nodes.max())
    model = ScalingModel(coefficients, weak, balance, threads, workers_per_node, measured, n_nodes, node_is)
    modelled = np.array([model.step_s(int(n), int(m))[0] for n, m in zip(k, nodes, strict=True)])
    return replace(model, worst_error=_worst_error(modelled, medians.seconds("step_s")[:, 0]))


def _choose(measurements: Sequence[Measurement]) -> tuple[list[Measurement], int]:
    """Return the measurements to fit, and their number of threads."""
    crowded = {one.setting for one in summarise(measurements) if one.oversubscribed}
    usable = [one for one in measurements if one.setting not in crowded]
    counts = Counter(setting.threads for setting in {one.setting for one in usable})
    threads = min((n for n, count in counts.items() if count > 1), default=min(counts, default=1))
    return [one for one in usable if one.threads == threads], threads


class _Medians(NamedTuple):
    """Medians of the settings to fit.

    Attributes:
        k: Numbers of workers, shape ``(n_settings,)``.
        nodes: Numbers of nodes, the same shape.
        by_setting: Draws of each quantity, by name, for each setting.
    """

    k: NDArray[np.float64]
    nodes: NDArray[np.float64]
    by_setting: list[dict[str, Draws]]

    def seconds(self, part: str) -> NDArray[np.float64]:
        """Return the seconds of a part, shape ``(n_settings, n_draws)``."""
        return np.stack([values[part] for values in self.by_setting])

    def fit(self, columns: Columns, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coefficient of each column, shape ``(n_columns, n_draws)``."""
        return _least_squares(columns, seconds, self.seconds("step_s"))


def _fit_computing(medians: _Medians, balance: Callable[[int], float], weak: bool) -> dict[str, Draws]:
    """Fit shared and repeated computing to its mean, and the jitter to the excess of the slowest worker."""
    k = medians.k
    mean = medians.seconds("mean_compute_s")
    work, repeated = medians.fit([np.ones(len(k)), k] if weak else [1 / k, np.ones(len(k))], mean)
    shared = work[None] / (1 if weak else k[:, None])
    planned = np.array([balance(int(n)) for n in k])[:, None]
    excess = medians.seconds("compute_s") - mean - (planned - 1) * shared
    (jitter,) = medians.fit([np.array([expected_maximum(int(n)) for n in k])], excess)
    return {"work_s": work, "repeated_s": repeated, "jitter_s": jitter}


def _fit_driver(medians: _Medians) -> dict[str, Draws]:
    """Fit all parts of the driver but gathering."""
    ones = np.ones(len(medians.k))
    coefficients: dict[str, Draws] = {}
    for part in ("broadcast", "update"):
        (coefficients[f"{part}_s"],) = medians.fit([ones], medians.seconds(f"{part}_s"))
    for part in ("dispatch", "other"):
        constant, each = medians.fit([ones, medians.k], medians.seconds(f"{part}_s"))
        coefficients |= {f"{part}_s": constant, f"worker_{part}_s": each}
    return coefficients


def _how_nodes_are_known(medians: _Medians) -> str:
    """Return whether the time of a node can be fitted; see ``ScalingModel.node_is``."""
    k, nodes = medians.k, medians.nodes
    if np.linalg.matrix_rank(np.stack([np.ones(len(k)), k, nodes - 1])) == 3:
        return "measured"
    if nodes.max() > 1 and np.ptp(k / nodes) == 0 and len(set(nodes)) > 1:
        return "undivided"
    return "assumed"


def _fit_gathering(medians: _Medians, coefficients: dict[str, Draws], node_is: str, link_s: float) -> dict[str, Draws]:
    """Fit gathering and the time of a node.

    The driver only publishes the parameters: nodes fetch them while the driver waits for answers, so
    the time of a node is part of gathering. Workers compute while tasks are still being sent to
    others: only dispatching and gathering together are not negative.
    """
    ones, further = np.ones(len(medians.k)), medians.nodes - 1
    both = medians.seconds("dispatch_s") + medians.seconds("gather_s")
    if node_is == "assumed":
        # The assumed time must not exceed the measured one.
        most = (both[further > 0] / further[further > 0, None]).min(axis=0, initial=link_s)
        node = np.maximum(most, 0)
        constant, each = medians.fit([ones, medians.k], both - further[:, None] * node)
    else:
        constant, each, node = medians.fit([ones, medians.k, further], both)
    return {
        "gather_s": constant - coefficients["dispatch_s"],
        "worker_gather_s": each - coefficients["worker_dispatch_s"],
        "node_s": node,
    }


def _least_squares(columns: Columns, values: NDArray[np.float64], step_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the non-negative coefficients that minimise the squared errors relative to the step.

    Args:
        columns: Regressors, one number for each setting.
        values: Seconds of a part, shape ``(n_settings, n_draws)``. A draw with NaN gives NaN.
        step_s: Seconds of the whole step, the same shape.

    Returns:
        shape ``(n_columns, n_draws)``.
    """
    from scipy.optimize import nnls

    matrix = np.stack(columns, axis=1)
    coefficients = np.full((len(columns), values.shape[1]), np.nan)
    for draw in np.flatnonzero(np.isfinite(values / step_s).all(axis=0)):
        weights = 1 / step_s[:, draw]
        coefficients[:, draw] = nnls(matrix * weights[:, None], values[:, draw] * weights)[0]
    return coefficients


def amdahl(summaries: Sequence[Summary]) -> dict[str, float]:
    """Fit ``T(k) = T(1) (s + (1 - s) / k)`` (G. Amdahl 1967).

    Returns:
        ``serial``, the share ``s``, and ``worst_error``, the largest relative error.
    """
    k, step_s = _cores_and_steps(summaries)
    serial, shared = _least_squares([np.ones(len(k)), 1 / k], step_s[:, None], step_s[:, None])[:, 0]
    return {"serial": serial / (serial + shared), "worst_error": _worst_error(serial + shared / k, step_s)}


def universal_scalability(summaries: Sequence[Summary]) -> dict[str, float]:
    """Fit ``T(k) = T(1) (1 + sigma (k - 1) + kappa k (k - 1)) / k`` (N. Gunther 2007).

    Returns:
        ``sigma``, ``kappa``, and ``worst_error``, the largest relative error. The first two are infinite
        or NaN if the fitted ``T(1)`` is 0.
    """
    k, step_s = _cores_and_steps(summaries)
    columns = [1 / k, (k - 1) / k, k - 1]
    first, contention, coherence = _least_squares(columns, step_s[:, None], step_s[:, None])[:, 0]
    fitted = columns[0] * first + columns[1] * contention + columns[2] * coherence
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma, kappa = contention / first, coherence / first
    return {"sigma": sigma, "kappa": kappa, "worst_error": _worst_error(fitted, step_s)}


def _cores_and_steps(summaries: Sequence[Summary]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k = np.array([one.setting.cores for one in summaries], np.float64)
    return k, np.array([one.step_s.value for one in summaries])


def _worst_error(fitted: NDArray[np.float64], measured: NDArray[np.float64]) -> float:
    return float(np.abs(fitted / measured - 1).max())
