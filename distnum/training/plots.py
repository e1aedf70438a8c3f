"""Pictures of a run: the loss curve, and the weights learned by the first layer."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.networks.model import Model
from distnum.storage.files import write_whole

__all__ = ["BLUE", "GREY", "ORANGE", "new_figure", "plot_curves", "plot_weights", "save_figure"]


# Colours that differ in lightness too, for print and colour-blind eyes (Okabe and Ito 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#BBBBBB"


def new_figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure that belongs to no window; width and height in inches.

    Raises:
        InputError: Matplotlib is not installed.
    """
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
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    number = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows], dtype=np.float64)
    axes.plot(number, loss, color=GREY, linewidth=0.8, label="loss of each batch")
    window = max(1, min(50, len(loss) // 10))
    mean = np.convolve(loss, np.full(window, 1 / window), mode="valid")
    axes.plot(number[window - 1 :], mean, color=BLUE, linewidth=2, label=f"its mean over {window} steps")
    axes.set(xlabel="step", ylabel="loss", title=title)
    if loss.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    tested = [row for row in rows if "test_accuracy" in row]
    if tested:
        right = axes.twinx()
        accuracy = [row["test_accuracy"] for row in tested]
        right.plot([row["step"] for row in tested], accuracy, "o-", color=ORANGE, markersize=4, label="test accuracy")
        right.set_ylim(0, 1)
        right.set_ylabel("test accuracy", color=ORANGE)
        right.annotate(
            f"{accuracy[-1]:.4f}",
            (tested[-1]["step"], accuracy[-1]),
            (-4, -14),
            textcoords="offset points",
            ha="right",
            color=ORANGE,
        )
        handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, loc="center right", frameon=False)
    else:
        axes.legend(frameon=False)
    for spine in ("top",):
        axes.spines[spine].set_visible(False)
    save_figure(figure, path)


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
    figure = new_figure(0.75 * n_columns + 0.8, 0.75 * n_rows + 0.3)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    largest = float(np.quantile(np.abs(weights), 0.999)) or 1.0
    image = None
    for number, axes in enumerate(grid.ravel()):
        axes.axis("off")
        if number < n_units:
            picture = weights[:, number].reshape(model.example_shape)
            image = axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    figure.colorbar(image, ax=grid, shrink=0.8, label="weight, less where it began")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure to a file, in the format that its name ends with, by default PNG.

    Raises:
        InputError: The file cannot be written, or has a format that Matplotlib does not know.
    """
    picture = BytesIO()
    try:
        figure.savefig(picture, dpi=150, format=path.suffix.lstrip(".") or "png")
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be drawn: {error}") from None
