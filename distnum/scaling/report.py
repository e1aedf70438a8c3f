"""Results as text for people."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import numpy as np

from distnum.common.text import duration
from distnum.scaling.measurement import PARTS
from distnum.scaling.model import COEFFICIENTS, Forecast, ScalingModel
from distnum.scaling.result import ScalingResult
from distnum.scaling.summary import Interval, Summary

__all__ = ["scaling_report"]


def scaling_report(result: ScalingResult) -> str:
    """A scaling experiment: what was measured, what a step is made of, and what is to be expected."""
    blocks = [_measured(result.summaries)]
    if any(one.oversubscribed for one in result.summaries):
        blocks.append("* more busy threads than cores: how they share them, not how the work scales")
    blocks += [f"note: {note}" for note in result.notes]
    blocks.append(_parts(result.summaries))
    if result.model is None:
        blocks.append(f"no model: {result.no_model}")
    else:
        blocks.append(_model(result.model, result.laws))
        if result.forecasts:
            blocks.append(_forecasts(result.forecasts, result.simulated_s))
        blocks.append("assumed beyond what was measured: " + ";\n  ".join(result.assumptions) + ".")
        bottleneck = result.model.bottleneck()
        if bottleneck is None:
            blocks.append("the shared work stays more than half of a step for any number of workers")
        else:
            k, part = bottleneck
            where = f"from {k:,} workers on" if k > 1 else "with one worker already,"
            blocks.append(f"first bottleneck: {where} half of a step is not shared work; most of it: {_NAMES[part]}")
    return "\n\n".join(blocks)


# Rounding leaves less than this of what is not there.
_NOTHING_S = 1e-8
_NAMES = {
    "broadcast_s": "broadcast",
    "dispatch_s": "dispatch",
    "compute_s": "computing",
    "gather_s": "gather",
    "update_s": "update",
    "other_s": "other",
}


def _within(interval: Interval, digits: int = 2) -> str:
    return _interval(interval, lambda value: f"{value:.{digits}f}")


def _ms_within(interval: Interval) -> str:
    return _interval(interval, _ms)


def _interval(interval: Interval, text: Callable[[float], str]) -> str:
    """A number and, where there is one, its interval."""
    value, low, high = map(text, interval)
    return value if isnan(interval.low) else f"{value} ({low} - {high})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g}" if seconds < 0.0995 else f"{seconds * 1e3:,.0f}"


def _measured(summaries: list[Summary]) -> str:
    base = summaries[0].setting
    beside = f"{base.workers} worker{'s'[: base.workers > 1]} with {base.threads} thread{'s'[: base.threads > 1]} each"
    lines = [
        f"medians with bootstrap intervals; speed-up and efficiency are beside {beside}",
        f"{'workers':>7} {'threads':>7} {'nodes':>5} {'ms a step':>22} {'speed-up':>20} {'efficiency':>20} "
        f"{'balance':>7}",
    ]
    for one in summaries:
        step = _ms_within(one.step_s)
        mark = "*" if one.oversubscribed else ""
        lines.append(
            f"{mark + str(one.setting.workers):>7} {one.setting.threads:>7} {one.nodes:>5} {step:>22} "
            f"{_within(one.speed_up):>20} {_within(one.efficiency):>20} {one.balance:>7.2f}"
        )
    return "\n".join(lines)


def _parts(summaries: list[Summary]) -> str:
    lines = [
        "where a step's milliseconds go",
        f"{'workers':>7} {'threads':>7} " + " ".join(f"{_NAMES[p]:>9}" for p in PARTS),
    ]
    for one in summaries:
        values = " ".join(f"{_ms(one.parts[part]):>9}" for part in PARTS)
        lines.append(f"{one.setting.workers:>7} {one.setting.threads:>7} {values}")
    return "\n".join(lines)


def _model(model: ScalingModel, laws: dict[str, dict[str, float]]) -> str:
    off = f"off by {model.worst_error:.1%} at most"
    if len(model.measured) == 2:
        off += ", which of two numbers of workers says little"
    of = f"of the parts with {model.threads} threads a worker" if model.threads > 1 else "of the parts"
    lines = [f"a model {of}, {off}; milliseconds with bootstrap intervals"]
    for name, what in COEFFICIENTS.items():
        interval = Interval.of(model.coefficients[name])
        if name == "node_s" and model.node_is == "assumed":
            continue  # it is among what is assumed
        if np.nanmax(np.abs(interval)) > _NOTHING_S:
            lines.append(f"{_ms_within(interval):>24}  {what}")
    for name, law in laws.items():
        values = ", ".join(f"{key} {value:.3g}" for key, value in law.items() if key != "worst_error")
        lines.append(f"beside it {name}: {values}; off by {law['worst_error']:.1%} at most")
    return "\n".join(lines)


def _forecasts(forecasts: list[Forecast], simulated_s: list[float]) -> str:
    lines = [
        f"{'workers':>9} {'nodes':>7} {'a step':>9} {'simulated':>9} {'speed-up':>24} {'efficiency':>20}  "
        "most beside shared work"
    ]
    for number, one in enumerate(forecasts):
        simulated = duration(simulated_s[number]) if simulated_s else "-"
        lines.append(
            f"{one.workers:>9,} {one.nodes:>7,} {duration(one.step_s.value):>9} {simulated:>9} "
            f"{_within(one.speed_up, 1):>24} {_within(one.efficiency):>20}  {_NAMES[one.largest]}"
        )
    return "\n".join(["forecast; speed-up and efficiency are beside one worker, as the model has it", *lines])
