"""Fits the model of a step, and two laws of the literature, to measurements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.scaling.measurement import Measurement
from distnum.scaling.model import Link, ScalingModel, expected_maximum
from distnum.scaling.summary import Draws, Summary, medians_by_draw, summarise

__all__ = ["amdahl", "fit_model", "universal_scalability"]


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


def fit_model(
    measurements: Sequence[Measurement],
    balance: Callable[[int], float],
    n_bytes: float,
    link: Link,
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
        link: what is assumed of nodes, where the measurements do not tell.
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
        most = (both[beyond > 0] / beyond[beyond > 0, None]).min(axis=0, initial=link.seconds(n_bytes))
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
