"""Plots of a scaling experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distnum.scaling.measurement import PARTS
from distnum.scaling.model import ScalingModel
from distnum.scaling.summary import Summary
from distnum.training.plots import BLUE, GREY, ORANGE, new_figure, save_figure

__all__ = ["plot_scaling"]

# One style for each number of threads.
_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7")
_DASHES, _MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D")

# One style for each part of a step.
_STACK = ("#F0E442", "#E69F00", BLUE, "#56B4E9", "#CC79A7", GREY)
_HATCHES = ("", "//", "", "..", "xx", "")


def plot_scaling(summaries: Sequence[Summary], model: ScalingModel | None, mode: str, path: Path) -> None:
    """Plot speed-up, efficiency, the parts of a step, and balance, against workers.

    Each number of threads has its own line. Hollow markers are settings with more busy threads than cores.

    Raises:
        InputError: The file cannot be written, or matplotlib is not installed.
    """
    figure = new_figure(9.5, 7.2)
    (speed, efficiency), (parts, balance) = figure.subplots(2, 2)
    all_threads = sorted({one.setting.threads for one in summaries})
    for number, threads in enumerate(all_threads):
        ones = [one for one in summaries if one.setting.threads == threads]
        workers = [one.setting.workers for one in ones]
        style = {
            "label": f"{threads} thread{'s' if threads > 1 else ''} per worker",
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": _DASHES[number % len(_DASHES)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.6,
        }
        _plot_intervals(speed, ones, "speed_up", style)
        _plot_intervals(efficiency, ones, "efficiency", style)
        balance.plot(workers, [one.balance for one in ones], **style)
    _plot_references(speed, summaries, model)
    _plot_parts(parts, summaries)
    base = summaries[0].setting
    relative = "" if base.cores == 1 else f" relative to {base} workers"
    titles = ((speed, f"speed-up{relative}"), (efficiency, f"efficiency{relative}"), (balance, "slowest worker / mean"))
    workers = sorted({one.setting.workers for one in summaries})
    for axes, title in titles:
        axes.set(title=title, xlabel="workers")
        axes.set_xscale("log", base=2)
        axes.set_xticks(workers, [str(k) for k in workers])
        axes.minorticks_off()
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    speed.legend(frameon=False)
    efficiency.axhline(1, color=GREY, linewidth=1.2, zorder=0)
    efficiency.set_ylim(0, np.nanmax([1.1, *(value for one in summaries for value in one.efficiency)]))
    balance.axhline(1, color=GREY, linewidth=1.2, zorder=0)
    balance.set_ylim(0.9, max(1.3, *(1.05 * one.balance for one in summaries)))
    figure.suptitle(f"{mode} scaling; bars: bootstrap intervals of medians", fontsize=10)
    for axes in (speed, efficiency, parts, balance):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _plot_intervals(axes: Any, summaries: Sequence[Summary], name: str, style: dict[str, Any]) -> None:
    """Plot an attribute of the summaries with its intervals."""
    workers = [one.setting.workers for one in summaries]
    values = np.array([getattr(one, name) for one in summaries])
    errors = np.maximum(0, [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    axes.errorbar(workers, values[:, 0], errors, capsize=3, **style)
    hollow = [(k, v) for k, v, one in zip(workers, values[:, 0], summaries, strict=True) if one.oversubscribed]
    if hollow:
        marker = {"marker": style["marker"], "markersize": style["markersize"], "linestyle": ""}
        axes.plot(*zip(*hollow, strict=True), color="white", zorder=3, **marker)
        axes.plot(*zip(*hollow, strict=True), color=style["color"], fillstyle="none", zorder=4, **marker)


def _plot_references(axes: Any, summaries: Sequence[Summary], model: ScalingModel | None) -> None:
    """Plot the ideal speed-up and that of the model."""
    fewest_threads = min(one.setting.threads for one in summaries)
    fewest_cores = min(one.setting.cores for one in summaries)
    workers = sorted({one.setting.workers for one in summaries})
    ideal = [k * fewest_threads / fewest_cores for k in workers]
    axes.plot(workers, ideal, color=GREY, linewidth=1.2, label="ideal", zorder=0)
    if model is not None and model.threads == fewest_threads:
        ones = [one for one in summaries if one.setting.threads == model.threads]
        k = np.array([one.setting.workers for one in ones])
        step_s = np.array([model.step_s(one.setting.workers, one.nodes)[0] for one in ones])
        speed_up = step_s[0] / step_s * (k / k[0] if model.weak else 1.0)
        axes.plot(k, speed_up, color="black", linewidth=0.8, linestyle=":", label="model")


def _plot_parts(axes: Any, summaries: Sequence[Summary]) -> None:
    """Plot a stacked bar for each setting."""
    names = [str(one.setting).replace(" threads", "") for one in summaries]
    bottom = np.zeros(len(summaries))
    factor, unit = (1e3, "ms") if max(one.step_s.value for one in summaries) < 1 else (1.0, "s")
    for number, part in enumerate(PARTS):
        seconds = factor * np.array([max(0.0, one.parts[part]) for one in summaries])
        style = {"color": _STACK[number], "hatch": _HATCHES[number], "edgecolor": "white", "linewidth": 0.5}
        axes.bar(names, seconds, 0.7, bottom, label=part.removesuffix("_s"), **style)
        bottom += seconds
    several = len({one.setting.threads for one in summaries}) > 1
    axes.set(title="parts of a step", xlabel="workers x threads" if several else "workers", ylabel=unit)
    # Room for the legend above the bars.
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="upper center")
