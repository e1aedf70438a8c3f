"""Pictures: how the loss of a run fell, what the first layer has learned, and how steps scale."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.checkpoints import write_whole
from distnum.errors import InputError
from distnum.models import Model
from distnum.scaling import PARTS
from distnum.scaling_fit import ScalingModel
from distnum.scaling_summary import Summary

__all__ = ["plot_curves", "plot_scaling", "plot_weights"]

# Colours that differ in lightness too, for print and colour-blind eyes (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#BBBBBB"
_SERIES = (_BLUE, _ORANGE, "#009E73", "#CC79A7")
_DASHES, _MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D")
_STACK = ("#F0E442", "#E69F00", _BLUE, "#56B4E9", "#CC79A7", _GREY)
_HATCHES = ("", "//", "", "..", "xx", "")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plotting needs matplotlib; install it with: pip install 'distnum[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def plot_curves(rows: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw the loss of every step, its running mean, and the test accuracy, into a file.

    Raises:
        InputError: there are no rows, or the file cannot be written.
    """
    if not rows:
        raise InputError("the run has no steps to plot yet.")
    figure = _figure(7.5, 4.2)
    axes = figure.subplots()
    number = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows], dtype=np.float64)
    axes.plot(number, loss, color=_GREY, linewidth=0.8, label="loss of each batch")
    window = max(1, min(50, len(loss) // 10))
    mean = np.convolve(loss, np.full(window, 1 / window), mode="valid")
    axes.plot(number[window - 1 :], mean, color=_BLUE, linewidth=2, label=f"its mean over {window} steps")
    axes.set(xlabel="step", ylabel="loss", title=title)
    if loss.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    tested = [row for row in rows if "test_accuracy" in row]
    if tested:
        right = axes.twinx()
        accuracy = [row["test_accuracy"] for row in tested]
        right.plot([row["step"] for row in tested], accuracy, "o-", color=_ORANGE, markersize=4, label="test accuracy")
        right.set_ylim(0, 1)
        right.set_ylabel("test accuracy", color=_ORANGE)
        right.annotate(
            f"{accuracy[-1]:.4f}",
            (tested[-1]["step"], accuracy[-1]),
            (-4, -14),
            textcoords="offset points",
            ha="right",
            color=_ORANGE,
        )
        handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, loc="center right", frameon=False)
    else:
        axes.legend(frameon=False)
    for spine in ("top",):
        axes.spines[spine].set_visible(False)
    _save(figure, path)


def plot_weights(model: Model, initial: NDArray[np.floating], path: Path, most_units: int = 50) -> None:
    """Draw what training has added to the weights into each unit, as pictures of the input's shape.

    Args:
        model: the trained network.
        initial: the parameters that it began with, flat.
        path: the file to draw into.
        most_units: units beyond these are left out.

    Raises:
        InputError: examples of this model are no pictures, or the file cannot be written.
    """
    if len(model.example_shape) != 2:
        raise InputError(f"weights can be drawn for pictures only; examples have shape {model.example_shape}.")
    if initial.shape != model.params.shape:
        raise InputError(f"the model has {model.params.size:,} parameters, but it began with {initial.size:,}.")
    weights = model.network.unpack(model.params - initial)["W1"][:, :most_units]
    n_units = weights.shape[1]
    n_columns = min(10, n_units)
    n_rows = -(-n_units // n_columns)
    figure = _figure(0.75 * n_columns + 0.8, 0.75 * n_rows + 0.3)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    largest = float(np.quantile(np.abs(weights), 0.999)) or 1.0
    image = None
    for number, axes in enumerate(grid.ravel()):
        axes.axis("off")
        if number < n_units:
            picture = weights[:, number].reshape(model.example_shape)
            image = axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    figure.colorbar(image, ax=grid, shrink=0.8, label="weight, less where it began")
    _save(figure, path)


def plot_scaling(summaries: Sequence[Summary], model: ScalingModel | None, mode: str, path: Path) -> None:
    """Draw speed-up, efficiency, where a step's time goes, and balance, against workers.

    Each number of threads has a line of its own; hollow marks are settings with more busy
    threads than cores.

    Raises:
        InputError: the file cannot be written.
    """
    figure = _figure(9.5, 7.2)
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
    speed.plot(workers, ideal, color=_GREY, linewidth=1.2, label="ideal", zorder=0)
    if model is not None and model.threads == all_threads[0]:
        ones = [one for one in summaries if one.setting.threads == model.threads]
        found = np.array([model.step_s(one.setting.workers, one.nodes)[0] for one in ones])
        factor = np.array([one.setting.workers for one in ones]) / ones[0].setting.workers if model.weak else 1.0
        k = [one.setting.workers for one in ones]
        speed.plot(k, found[0] / found * factor, color="black", linewidth=0.8, linestyle=":", label="model")
    efficiency.axhline(1, color=_GREY, linewidth=1.2, zorder=0)
    efficiency.set_ylim(0, np.nanmax([1.1, *(value for one in summaries for value in one.efficiency)]))
    balance.axhline(1, color=_GREY, linewidth=1.2, zorder=0)
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
    _save(figure, path)


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


def _save(figure: Any, path: Path) -> None:
    picture = BytesIO()
    try:
        figure.savefig(picture, dpi=150, format=path.suffix.lstrip(".") or "png")
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be drawn: {error}") from None
