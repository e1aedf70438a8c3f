"""Time of one gradient against the number of parameters, examples and layers, in both dtypes.

    python -m benchmarks.growth                 # about three minutes
    python -m benchmarks growth --picture FILE  # also plots the figures

One core, central differences by propagation, digits of the package. Each time is compared with the
predicted number of changes: pairs of an example and a nonzero input, times the units of the layer,
times the points of the stencil.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import propagated
from benchmarks.timing import interleaved, spread, timed
from distnum.common.machine import single_threaded_blas
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation

__all__ = ["draw", "measure_growth", "predicted_changes", "print_growth"]

H = 1e-4
HIDDEN = (25, 50, 100, 200, 400, 800, 1600, 3200)
BATCHES = (10, 30, 100, 300, 1000, 2000)
DEPTHS = (1, 2, 3, 4)
LONGEST_S = 20.0


@dataclass(frozen=True)
class _Setting:
    hidden: tuple[int, ...]
    n_examples: int
    activation: str
    dtype: str

    def objective(self) -> Propagation:
        return Propagation(Network((784, *self.hidden, 10), self.activation), "central", H)


@dataclass(frozen=True)
class _Series:
    """Settings along one axis, with the value of each on the axis."""

    axis: str
    activation: str
    dtype: str
    settings: tuple[_Setting, ...]
    x: tuple[int, ...]
    points: list[dict[str, Any]] = field(default_factory=list)


def _all_series() -> list[_Series]:
    all_series = []
    for activation in ("relu", "tanh"):
        for dtype in ("float64", "float32"):
            settings = tuple(_Setting((n,), 100, activation, dtype) for n in HIDDEN)
            n_params = tuple(setting.objective().n_params for setting in settings)
            all_series.append(_Series("parameters", activation, dtype, settings, n_params))
        settings = tuple(_Setting((50,), n, activation, "float64") for n in BATCHES)
        all_series.append(_Series("examples", activation, "float64", settings, BATCHES))
        settings = tuple(_Setting((100,) * n, 100, activation, "float64") for n in DEPTHS)
        all_series.append(_Series("hidden layers", activation, "float64", settings, DEPTHS))
    return all_series


def measure_growth(repeats: int = 5, longest_s: float = LONGEST_S) -> dict[str, Any]:
    """Time one gradient along every axis.

    Args:
        repeats: Number of timed gradients of each setting.
        longest_s: Settings that are expected to take more seconds are left out.

    Returns:
        ``series``, each with ``axis``, ``activation``, ``dtype``, and ``points``: ``x``, ``hidden``,
        ``n_examples``, ``n_params``, ``n_changes`` (predicted), and either ``median_s``, ``min_s``, ``max_s``
        or ``expected_s`` if it was left out. ``exponent`` is fitted to the median seconds,
        ``fastest_exponent`` to the fastest runs, which depend less on the load of the machine, and
        ``predicted_exponent`` to the changes, for the ``n_fitted`` largest ``x``.
    """
    all_series = _all_series()
    dataset = load_data()
    calls: dict[_Setting, Callable[[], Any]] = {}
    with single_threaded_blas():
        for series in all_series:
            before: tuple[float, int] | None = None
            for setting, x in zip(series.settings, series.x, strict=True):
                objective = setting.objective()
                params = objective.network.initial_params(dtype=setting.dtype)
                batch = dataset.train(slice(setting.n_examples), setting.dtype)
                n_changes = predicted_changes(objective, params, batch.x)
                point = {"x": x, "hidden": list(setting.hidden), "n_examples": setting.n_examples}
                point |= {"n_params": objective.n_params, "n_changes": n_changes}
                series.points.append(point)
                expected_s = before[0] / before[1] * n_changes if before else 0.0
                if expected_s > longest_s:
                    point["expected_s"] = expected_s
                else:
                    call = calls.setdefault(setting, partial(propagated, objective, params, batch))
                    call()  # compiles for this dtype
                    before = timed(call), n_changes
        names = {str(setting): setting for setting in calls}
        seconds = interleaved({name: calls[setting] for name, setting in names.items()}, repeats, warmup=0)
    for series in all_series:
        for setting, point in zip(series.settings, series.points, strict=True):
            if setting in calls:
                point |= spread(seconds[str(setting)])
    return {"h": H, "repeats": repeats, "longest_s": longest_s, "series": [_results(series) for series in all_series]}


def predicted_changes(objective: Propagation, params: NDArray[np.floating], x: NDArray[np.floating]) -> int:
    """Return the predicted number of unit changes that one gradient follows."""
    network = objective.network
    forward = network.forward(params, x)
    n_changes = 0
    for number, layer in enumerate(network.layers):
        n_pairs = int(np.count_nonzero(forward.inputs[number])) + len(x)  # the input of the bias is one
        n_changes += n_pairs * layer.n_out
    return n_changes * len(objective.scheme.offsets)


def _results(series: _Series) -> dict[str, Any]:
    measured = [point for point in series.points if "median_s" in point]
    # The upper half, where constant costs matter least.
    fitted = measured[-max(3, -(-len(measured) // 2)) :]
    x = [point["x"] for point in fitted]
    return {
        "axis": series.axis,
        "activation": series.activation,
        "dtype": series.dtype,
        "points": series.points,
        "n_fitted": len(fitted),
        "exponent": _exponent(x, [point["median_s"] for point in fitted]),
        "fastest_exponent": _exponent(x, [point["min_s"] for point in fitted]),
        "predicted_exponent": _exponent(x, [point["n_changes"] for point in fitted]),
    }


def _exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent ``p`` of ``y = c x ** p``, fitted to the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# --- tables and pictures ------------------------------------------------------------------


def print_growth(results: dict[str, Any]) -> None:
    """Print what ``measure_growth`` returned."""
    print("One gradient on one core, central differences (median, min - max; ns per predicted change)")
    for series in results["series"]:
        measured = [point for point in series["points"] if "median_s" in point]
        print(f"\n{series['axis']}, {series['activation']}, {series['dtype']}")
        for point in series["points"]:
            n_params = f"{point['n_params']:,} parameters" if series["axis"] == "hidden layers" else ""
            if "median_s" not in point:
                print(f"  {point['x']:>9,}   left out: about {point['expected_s']:.0f} s expected  {n_params}")
                continue
            ms, low, high = (point[name] * 1e3 for name in ("median_s", "min_s", "max_s"))
            each_ns = point["median_s"] / point["n_changes"] * 1e9
            between = f"({low:,.2f} - {high:,.2f})"
            print(f"  {point['x']:>9,} {ms:11,.2f} ms {between:>23} {each_ns:8.2f} ns  {n_params}".rstrip())
        print(
            f"  time grows as {series['axis']} ** {series['exponent']:.2f} (fastest runs: "
            f"{series['fastest_exponent']:.2f}), predicted {series['predicted_exponent']:.2f}; "
            f"from {series['n_fitted']} of {len(measured)} points"
        )
    print("\nfloat64 / float32: ratio of the times at the largest number of parameters")
    for activation in ("relu", "tanh"):
        by_dtype = {
            series["dtype"]: series["points"][-1].get("median_s")
            for series in results["series"]
            if series["axis"] == "parameters" and series["activation"] == activation
        }
        if all(by_dtype.values()):
            print(f"  {activation:<6} {by_dtype['float64'] / by_dtype['float32']:5.2f}")


# Colours of Okabe and Ito (2008), which colour-blind readers can distinguish; dashes and markers differ too.
_STYLES = {
    ("relu", "float64"): {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    ("relu", "float32"): {"color": "#56B4E9", "marker": "^", "linestyle": "--"},
    ("tanh", "float64"): {"color": "#D55E00", "marker": "s", "linestyle": "-"},
    ("tanh", "float32"): {"color": "#E69F00", "marker": "v", "linestyle": "--"},
}
_LABELS = {
    "parameters": "parameters (one hidden layer, batch 100)",
    "examples": "examples in a batch (784-50-10)",
    "hidden layers": "hidden layers of 100 units (batch 100)",
}


def draw(results: dict[str, Any], path: str | Path) -> None:
    """Draw what ``measure_growth`` returned into a PNG file: a panel for each axis. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(_LABELS), sharey=True)
    for panel, (axis, label) in zip(panels, _LABELS.items(), strict=True):
        for series in results["series"]:
            if series["axis"] == axis:
                points = [point for point in series["points"] if "median_s" in point]
                style = _STYLES[series["activation"], series["dtype"]]
                name = f"{series['activation']}, {series['dtype']}"
                x, ms = [point["x"] for point in points], [point["median_s"] * 1e3 for point in points]
                panel.plot(x, ms, label=name, linewidth=1.8, markersize=5, **style)
        panel.set_yscale("log")
        panel.set_xlabel(label, fontsize=11)
        if axis == "hidden layers":
            panel.set_xticks(DEPTHS)
        else:
            panel.set_xscale("log")
            _draw_linear(panel, results, axis)
        panel.grid(color="#DDDDDD", linewidth=0.6)
        panel.tick_params(labelsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=10)
    panels[0].set_ylabel("one gradient, one core [ms]", fontsize=11)
    figure.savefig(path, dpi=200, format="png")


def _draw_linear(panel: Any, results: dict[str, Any], axis: str) -> None:
    """A line of slope one through the largest ReLU setting."""
    (points,) = (
        [point for point in series["points"] if "median_s" in point]
        for series in results["series"]
        if (series["axis"], series["activation"], series["dtype"]) == (axis, "relu", "float64")
    )
    x = np.array([points[0]["x"], points[-1]["x"]], dtype=float)
    panel.plot(x, points[-1]["median_s"] * 1e3 * x / x[-1], color="#777777", linestyle=":", label="in proportion")


if __name__ == "__main__":
    print_growth(measure_growth())
