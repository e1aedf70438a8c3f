"""The result of a scaling experiment as text."""

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

# Coefficients below this are rounding errors.
_NOTHING_S = 1e-8

_NAMES = {
    "broadcast_s": "broadcast",
    "dispatch_s": "dispatch",
    "compute_s": "computing",
    "gather_s": "gather",
    "update_s": "update",
    "other_s": "other",
}


def scaling_report(result: ScalingResult) -> str:
    """Return the measurements, the parts of a step, the model and the forecasts as text."""
    blocks = [_measured(result.summaries)]
    if any(one.oversubscribed for one in result.summaries):
        blocks.append("* more busy threads than cores: shows how they share the cores, not how the work scales")
    blocks += [f"note: {note}" for note in result.notes]
    blocks.append(_parts(result.summaries))
    if result.model is None:
        blocks.append(f"no model: {result.no_model}")
    else:
        blocks.append(_model(result.model, result.laws))
        if result.forecasts:
            blocks.append(_forecasts(result.forecasts, result.simulated_s))
        blocks.append("assumed beyond what was measured: " + ";\n  ".join(result.assumptions) + ".")
        blocks.append(_bottleneck(result.model))
    return "\n\n".join(blocks)


def _measured(summaries: list[Summary]) -> str:
    base = summaries[0].setting
    reference = f"{_counted(base.workers, 'worker')} with {_counted(base.threads, 'thread')} each"
    lines = [
        f"medians with bootstrap intervals; speed-up and efficiency are relative to {reference}",
        f"{'workers':>7} {'threads':>7} {'nodes':>5} {'ms per step':>22} {'speed-up':>20} {'efficiency':>20} "
        f"{'balance':>7}",
    ]
    for one in summaries:
        step = _ms_with_interval(one.step_s)
        mark = "*" if one.oversubscribed else ""
        lines.append(
            f"{mark + str(one.setting.workers):>7} {one.setting.threads:>7} {one.nodes:>5} {step:>22} "
            f"{_with_interval(one.speed_up):>20} {_with_interval(one.efficiency):>20} {one.balance:>7.2f}"
        )
    return "\n".join(lines)


def _parts(summaries: list[Summary]) -> str:
    lines = [
        "milliseconds of each part of a step",
        f"{'workers':>7} {'threads':>7} " + " ".join(f"{_NAMES[part]:>9}" for part in PARTS),
    ]
    for one in summaries:
        values = " ".join(f"{_ms(one.parts[part]):>9}" for part in PARTS)
        lines.append(f"{one.setting.workers:>7} {one.setting.threads:>7} {values}")
    return "\n".join(lines)


def _model(model: ScalingModel, laws: dict[str, dict[str, float]]) -> str:
    error = f"error at most {model.worst_error:.1%}"
    if len(model.measured) == 2:
        error += ", which says little, as only two numbers of workers were measured"
    threads = f" with {model.threads} threads per worker" if model.threads > 1 else ""
    lines = [f"model of the parts{threads}, {error}; milliseconds with bootstrap intervals"]
    for name, meaning in COEFFICIENTS.items():
        interval = Interval.of(model.coefficients[name])
        if name == "node_s" and model.node_is == "assumed":
            continue  # it is listed among the assumptions
        if np.nanmax(np.abs(interval)) > _NOTHING_S:
            lines.append(f"{_ms_with_interval(interval):>24}  {meaning}")
    for name, law in laws.items():
        values = ", ".join(f"{key} {value:.3g}" for key, value in law.items() if key != "worst_error")
        lines.append(f"for comparison, {name}: {values}; error at most {law['worst_error']:.1%}")
    return "\n".join(lines)


def _forecasts(forecasts: list[Forecast], simulated_s: list[float]) -> str:
    lines = [
        "forecast; speed-up and efficiency are relative to one worker in the model",
        f"{'workers':>9} {'nodes':>7} {'step':>9} {'simulated':>9} {'speed-up':>24} {'efficiency':>20}  "
        "largest part apart from shared work",
    ]
    for number, one in enumerate(forecasts):
        simulated = duration(simulated_s[number]) if simulated_s else "-"
        lines.append(
            f"{one.workers:>9,} {one.nodes:>7,} {duration(one.step_s.value):>9} {simulated:>9} "
            f"{_with_interval(one.speed_up, 1):>24} {_with_interval(one.efficiency):>20}  {_NAMES[one.largest]}"
        )
    return "\n".join(lines)


def _bottleneck(model: ScalingModel) -> str:
    bottleneck = model.bottleneck()
    if bottleneck is None:
        return "no bottleneck: at least half of a step is shared work on any number of workers"
    k, part = bottleneck
    return (
        f"first bottleneck: from {_counted(k, 'worker')} on, less than half of a step is shared work; "
        f"largest other part: {_NAMES[part]}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number > 1 else ''}"


def _with_interval(interval: Interval, digits: int = 2) -> str:
    return _interval_text(interval, lambda value: f"{value:.{digits}f}")


def _ms_with_interval(interval: Interval) -> str:
    return _interval_text(interval, _ms)


def _interval_text(interval: Interval, text: Callable[[float], str]) -> str:
    """Return a number and, if there is one, its interval."""
    value, low, high = map(text, interval)
    return value if isnan(interval.low) else f"{value} ({low} - {high})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g}" if seconds < 0.0995 else f"{seconds * 1e3:,.0f}"
