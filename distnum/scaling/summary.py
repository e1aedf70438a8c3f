"""Medians, speed-up and efficiency of measurements, with bootstrap intervals.

Repeats are resampled (B. Efron, "Bootstrap methods", 1979). The settings took turns, so a draw takes
the same repeats of all settings. Every quantity is computed for each draw, and its interval follows
from the draws; draw 0 is the measurements themselves. A setting that was measured once has no
interval: its draws are NaN, and so are the quantities computed from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.scaling.measurement import PARTS, Measurement, Setting

__all__ = [
    "FEW_REPEATS",
    "Draws",
    "Interval",
    "Summary",
    "coverage",
    "efficiencies",
    "in_turns",
    "medians_by_draw",
    "summarise",
    "with_intervals_as_dicts",
]


Draws = NDArray[np.float64]
"""One number for each draw, shape ``(1 + n_draws,)``; the first is of the measurements themselves."""

FEW_REPEATS = 5
"""Up to this number of repeats, the interval of a median is the range of the measurements."""
_N_DRAWS = 1000
_QUANTITIES = ("step_s", *PARTS, "mean_compute_s", "balance", "busy")


class Interval(NamedTuple):
    """A number and its bootstrap interval, nominally of 95 %; NaN if there is no interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> Interval:
        """Return draw 0 and the interval of the other draws."""
        low, high = np.quantile(draws[1:], [0.025, 0.975])
        return cls(float(draws[0]), float(low), float(high))


@dataclass(frozen=True)
class Summary:
    """Summary of the measurements of one setting.

    Attributes:
        setting: Workers and threads.
        nodes: Number of nodes used.
        repeats: Number of measurements.
        step_s: Seconds of a step.
        speed_up: Speed relative to the setting with the fewest cores; in weak scaling, counted in work done.
        efficiency: ``speed_up`` divided by the ratio of the cores.
        parts: Seconds of each of ``PARTS``.
        balance, planned_balance, busy, oversubscribed: See ``Measurement``.
    """

    setting: Setting
    nodes: int
    repeats: int
    step_s: Interval
    speed_up: Interval
    efficiency: Interval
    parts: dict[str, float]
    balance: float
    planned_balance: float
    busy: float
    oversubscribed: bool

    def to_dict(self) -> dict[str, Any]:
        values = {**vars(self), "workers": self.setting.workers, "threads": self.setting.threads}
        del values["setting"]
        return with_intervals_as_dicts(values)


def with_intervals_as_dicts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with each ``Interval`` as a dict, for JSON."""
    return {name: value._asdict() if isinstance(value, Interval) else value for name, value in values.items()}


def medians_by_draw(measurements: Sequence[Measurement]) -> dict[Setting, dict[str, Draws]]:
    """Return the medians over the repeats of every draw, for each setting, ordered by cores."""
    rng = np.random.default_rng(0)
    by_setting: dict[Setting, list[Measurement]] = {}
    for one in sorted(measurements, key=lambda one: one.repeat):
        by_setting.setdefault(one.setting, []).append(one)
    n_repeats = max(len(ones) for ones in by_setting.values())
    uniform = rng.random((_N_DRAWS, n_repeats))
    medians_of = {}
    for setting in sorted(by_setting, key=lambda setting: (setting.cores, setting.threads)):
        ones = by_setting[setting]
        values = np.array([[getattr(one, name) for name in _QUANTITIES] for one in ones])
        repeats = (uniform[:, : len(ones)] * len(ones)).astype(int)
        drawn = np.median(values[repeats], axis=1) if len(ones) > 1 else np.full((_N_DRAWS, len(_QUANTITIES)), np.nan)
        medians = np.concatenate([np.median(values, axis=0)[None], drawn])
        medians_of[setting] = dict(zip(_QUANTITIES, medians.T, strict=True))
    return medians_of


def coverage(n_repeats: int) -> float:
    """Return the probability that the true median lies within the range of ``n_repeats`` measurements.

    >>> coverage(2), coverage(5)
    (0.5, 0.9375)
    """
    return 1 - 2.0 ** (1 - n_repeats)


def in_turns(measurements: Sequence[Measurement]) -> bool:
    """Return whether all settings were measured in each repeat, one after another."""
    settings = {one.setting for one in measurements}
    repeats = [list(ones) for _, ones in groupby(measurements, lambda one: one.repeat)]
    return all({one.setting for one in ones} == settings for ones in repeats)


def summarise(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return one summary for each setting, ordered by cores. All measurements must be of one mode."""
    draws = medians_by_draw(measurements)
    base = next(iter(draws))
    weak = measurements[0].mode == "weak"
    summaries = []
    for setting, values in draws.items():
        ones = [one for one in measurements if one.setting == setting]
        faster = draws[base]["step_s"] / values["step_s"]
        # In weak scaling the work grows with the number of workers.
        speed_up = faster * setting.workers / base.workers if weak else faster
        summaries.append(
            Summary(
                setting,
                ones[0].nodes,
                len(ones),
                Interval.of(values["step_s"]),
                Interval.of(speed_up),
                Interval.of(speed_up / (setting.cores / base.cores)),
                {part: float(values[part][0]) for part in PARTS},
                float(values["balance"][0]),
                ones[0].planned_balance,
                float(values["busy"][0]),
                sum(one.oversubscribed for one in ones) > len(ones) / 2,
            )
        )
    return summaries


def efficiencies(measurements: Sequence[Measurement]) -> list[float | None]:
    """Return each measurement's efficiency relative to the one with the fewest cores in the same repeat.

    It is None if the setting with the fewest cores was not measured in that repeat.
    """
    bases: dict[int, Measurement] = {}
    for one in measurements:
        if one.repeat not in bases or one.setting.cores < bases[one.repeat].setting.cores:
            bases[one.repeat] = one
    fewest = min((one.setting.cores for one in measurements), default=0)
    values: list[float | None] = []
    for one in measurements:
        base = bases[one.repeat]
        cores = one.setting.cores / base.setting.cores
        work = one.workers / base.workers if one.mode == "weak" else 1.0
        values.append(work * base.step_s / one.step_s / cores if base.setting.cores == fewest else None)
    return values
