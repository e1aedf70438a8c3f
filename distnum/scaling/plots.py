"""Pictures of a scaling experiment."""

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


_SERIES = (BLUE, ORANGE, "#009E73", "#CC79A7")
_DASHES, _MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D")

_STACK = ("#F0E442", "#E69F00", BLUE, "#56B4E9", "#CC79A7", GREY)
_HATCHES = ("", "//", "", "..", "xx", "")


def plot_scaling(summaries: Sequence[Summary], model: ScalingModel | None, mode: str, path: Path) -> None:
    """Draw speed-up, efficiency, where a step's time goes, and balance, against workers.

    Each number of threads has a line of its own; hollow marks are settings with more busy
    threads than cores.

    Raises:
        InputError: the file cannot be written.
    """
    figure = new_figure(9.5, 7.2)
    (speed, efficiency), (parts, balance) = figure.subplots(2, 2)
    all_threads = sorted({one.setting.threads for one in summaries})
    for number, threads in enumerate(all_threads):
        ones = [one for one in summaries if one.setting.threads == threads]
        k = [one.setting.workers for one in ones]
        style = {"color": _SERIES[number % len(_SERIES)], "linestyle": _DASHES[number % len(_DASHES)]}
        style["marker"] = _MARKERS[number % len(_MARKERS)]
        name = f"{threads} thread{'s' if threads > 1 else ''} a worker"
        for axes, of in ((speed, "speed_up"), (efficiency, "efficiency")):
            values = np.array([getattr(one, of) for one in ones])
            below, above = values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]
            errors = np.maximum(0, [below, above])
            axes.errorbar(k, values[:, 0], errors, label=name, capsize=3, markersize=5, linewidth=1.6, **style)
            hollow = [(n, v) for n, v, one in zip(k, values[:, 0], ones, strict=True) if one.oversubscribed]
            if hollow:
                axes.plot(*zip(*hollow, strict=True), style["marker"], markersize=5, color="white", zorder=3)
                axes.plot(
                    *zip(*hollow, strict=True),
                    style["marker"],
                    markersize=5,
                    fillstyle="none",
                    zorder=4,
                    color=style["color"],
                )
        balance.plot(k, [one.balance for one in ones], markersize=5, linewidth=1.6, label=name, **style)
    workers = sorted({one.setting.workers for one in summaries})
    fewest = min(one.setting.cores for one in summaries)
    ideal = [k * all_threads[0] / fewest for k in workers]
    speed.plot(workers, ideal, color=GREY, linewidth=1.2, label="ideal", zorder=0)
    if model is not None and model.threads == all_threads[0]:
        ones = [one for one in summaries if one.setting.threads == model.threads]
        found = np.array([model.step_s(one.setting.workers, one.nodes)[0] for one in ones])
        factor = np.array([one.setting.workers for one in ones]) / ones[0].setting.workers if model.weak else 1.0
        k = [one.setting.workers for one in ones]
        speed.plot(k, found[0] / found * factor, color="black", linewidth=0.8, linestyle=":", label="model")
    efficiency.axhline(1, color=GREY, linewidth=1.2, zorder=0)
    efficiency.set_ylim(0, np.nanmax([1.1, *(value for one in summaries for value in one.efficiency)]))
    balance.axhline(1, color=GREY, linewidth=1.2, zorder=0)
    _draw_parts(parts, summaries)
    base = summaries[0].setting
    beside = "" if base.cores == 1 else f" beside {base} workers"
    titles = ((speed, f"speed-up{beside}"), (efficiency, f"efficiency{beside}"), (balance, "slowest worker / mean"))
    for axes, title in titles:
        axes.set(title=title, xlabel="workers")
        axes.set_xscale("log", base=2)
        axes.set_xticks(workers, [str(k) for k in workers])
        axes.minorticks_off()
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    speed.legend(frameon=False)
    balance.set_ylim(0.9, max(1.3, *(1.05 * one.balance for one in summaries)))
    figure.suptitle(f"{mode} scaling; bars: bootstrap intervals of medians", fontsize=10)
    for axes in (speed, efficiency, parts, balance):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _draw_parts(axes: Any, summaries: Sequence[Summary]) -> None:
    """A stacked bar for each setting."""
    names = [str(one.setting).replace(" threads", "") for one in summaries]
    bottom = np.zeros(len(summaries))
    factor, unit = (1e3, "ms") if max(one.step_s.value for one in summaries) < 1 else (1.0, "s")
    for number, part in enumerate(PARTS):
        seconds = factor * np.array([max(0.0, one.parts[part]) for one in summaries])
        label = part.removesuffix("_s")
        axes.bar(
            names,
            seconds,
            0.7,
            bottom,
            color=_STACK[number],
            hatch=_HATCHES[number],
            edgecolor="white",
            linewidth=0.5,
            label=label,
        )
        bottom += seconds
    several = len({one.setting.threads for one in summaries}) > 1
    axes.set(title="where a step's time goes", xlabel="workers x threads" if several else "workers", ylabel=unit)
    # Room for the names above the bars.
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="upper center")
