"""What measurements of scaling come to: medians, speed-up and efficiency, with intervals.

Repeats are resampled (B. Efron, "Bootstrap methods", 1979): the settings took turns, so one draw
takes the same repeats of all of them. Every number is computed for each draw, which gives its
interval; draw 0 is the measurements themselves. A setting that was measured once has no interval:
its draws are NaN, and so is what is computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
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
]


Draws = NDArray[np.float64]
"""One number for each draw, shape ``(1 + n_draws,)``; the first is of the measurements themselves."""

FEW_REPEATS = 5
"""With so many, or fewer, the interval of a median goes from the least to the greatest that was measured."""
_N_DRAWS = 1000
_QUANTITIES = ("step_s", *PARTS, "mean_compute_s", "balance", "busy")


class Interval(NamedTuple):
    """A number and its bootstrap interval, nominally of 95 %; NaN where there is none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> Interval:
        low, high = np.quantile(draws[1:], [0.025, 0.975])
        return cls(float(draws[0]), float(low), float(high))


@dataclass(frozen=True)
class Summary:
    """What the measurements of one setting come to.

    Attributes:
        setting, nodes: that took part.
        repeats: how many measurements.
        step_s: seconds of a step.
        speed_up: beside the setting with fewest cores; in weak scaling, of the work done.
        efficiency: the speed-up over the ratio of cores.
        parts: seconds of each of ``PARTS``.
        balance, planned_balance, busy, oversubscribed: see ``Measurement``.
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
        found = {**vars(self), "workers": self.setting.workers, "threads": self.setting.threads}
        del found["setting"]
        return {name: value._asdict() if isinstance(value, Interval) else value for name, value in found.items()}


def medians_by_draw(measurements: Sequence[Measurement]) -> dict[Setting, dict[str, Draws]]:
    """For each setting, by its cores, the medians over the repeats of every draw."""
    rng = np.random.default_rng(0)
    by_setting: dict[Setting, list[Measurement]] = {}
    for one in sorted(measurements, key=lambda one: one.repeat):
        by_setting.setdefault(one.setting, []).append(one)
    most = max(len(ones) for ones in by_setting.values())
    places = rng.random((_N_DRAWS, most))
    found = {}
    for setting in sorted(by_setting, key=lambda setting: (setting.cores, setting.threads)):
        ones = by_setting[setting]
        values = np.array([[getattr(one, name) for name in _QUANTITIES] for one in ones])
        chosen = (places[:, : len(ones)] * len(ones)).astype(int)
        drawn = np.median(values[chosen], axis=1) if len(ones) > 1 else np.full((_N_DRAWS, len(_QUANTITIES)), np.nan)
        medians = np.concatenate([np.median(values, axis=0)[None], drawn])
        found[setting] = dict(zip(_QUANTITIES, medians.T, strict=True))
    return found


def coverage(n_repeats: int) -> float:
    """How often the true median lies between the least and the greatest of so many measurements.

    >>> coverage(2), coverage(5)
    (0.5, 0.9375)
    """
    return 1 - 2.0 ** (1 - n_repeats)


def in_turns(measurements: Sequence[Measurement]) -> bool:
    """Whether all settings were measured in each repeat, one after the other."""
    settings = {one.setting for one in measurements}
    repeats = [list(ones) for _, ones in groupby(measurements, lambda one: one.repeat)]
    return all({one.setting for one in ones} == settings for ones in repeats)


def summarise(measurements: Sequence[Measurement]) -> list[Summary]:
    """One summary for each setting, by cores. The measurements are of one mode."""
    draws = medians_by_draw(measurements)
    base = next(iter(draws))
    weak = measurements[0].mode == "weak"
    summaries = []
    for setting, values in draws.items():
        ones = [one for one in measurements if one.setting == setting]
        cores = setting.cores / base.cores
        faster = draws[base]["step_s"] / values["step_s"]
        # In weak scaling so many workers do so many times the work.
        speed_up = faster * setting.workers / base.workers if weak else faster
        summaries.append(
            Summary(
                setting,
                ones[0].nodes,
                len(ones),
                Interval.of(values["step_s"]),
                Interval.of(speed_up),
                Interval.of(speed_up / cores),
                {part: float(values[part][0]) for part in PARTS},
                float(values["balance"][0]),
                ones[0].planned_balance,
                float(values["busy"][0]),
                sum(one.oversubscribed for one in ones) > len(ones) / 2,
            )
        )
    return summaries


def efficiencies(measurements: Sequence[Measurement]) -> list[float | None]:
    """Of each measurement beside that with fewest cores in the same repeat; None if there is none."""
    bases: dict[int, Measurement] = {}
    for one in measurements:
        if one.repeat not in bases or one.setting.cores < bases[one.repeat].setting.cores:
            bases[one.repeat] = one
    fewest = min((one.setting.cores for one in measurements), default=0)
    found: list[float | None] = []
    for one in measurements:
        base = bases[one.repeat]
        cores = one.setting.cores / base.setting.cores
        work = one.workers / base.workers if one.mode == "weak" else 1.0
        found.append(work * base.step_s / one.step_s / cores if base.setting.cores == fewest else None)
    return found
