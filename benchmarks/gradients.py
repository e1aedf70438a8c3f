"""Time of a gradient compared with the article's loop and with backpropagation, on one core.

    python -m benchmarks.gradients

The article's loop is timed for a random sample of the parameters and scaled to all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.networks import backpropagation, kinks_within, propagated
from benchmarks.timing import paired_ratio, spread, timed
from distnum.common.machine import single_threaded_blas
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation

H = 1e-4

# Variants of the article's network, and deeper networks.
SETTINGS: list[dict[str, Any]] = [
    {"sizes": (784, 50, 10), "n_sampled": 400, "repeats": 15},
    {"sizes": (784, 50, 10), "dtype": "float32"},
    {"sizes": (784, 50, 10), "scheme": "forward"},
    {"sizes": (784, 50, 10), "scheme": "central4"},
    {"sizes": (784, 50, 10), "activation": "tanh"},
    {"sizes": (784, 50, 10), "activation": "sigmoid"},
    {"sizes": (784, 50, 10), "activation": "softplus"},
    {"sizes": (784, 50, 10), "activation": "step", "h": 0.1},
    {"sizes": (784, 50, 10), "activation": "quantize:4", "h": 0.1},
    {"sizes": (784, 50, 10), "activation": "tanh", "dense": True},
    {"sizes": (784, 256, 256, 10), "n_sampled": 150, "repeats": 7},
    {"sizes": (784, 50, 50, 10), "activation": "tanh", "repeats": 3},
]


def article_seconds(network: Network, params: np.ndarray, batch: Any, n_sampled: int, generator: Any) -> float:
    """Return the seconds of the article's loop for all parameters, from a timed sample of them."""
    moved = params.copy()
    indices = generator.choice(params.size, n_sampled, replace=False)
    started = perf_counter()
    for index in indices:
        original = moved[index]
        moved[index] = original + H
        above = network.loss(moved, batch)
        moved[index] = original - H
        below = network.loss(moved, batch)
        moved[index] = original
        _ = (above - below) / (2 * H)
    return (perf_counter() - started) / n_sampled * params.size


def compare(
    sizes: tuple[int, ...],
    activation: str = "relu",
    scheme: str = "central",
    dtype: str = "float64",
    h: float = H,
    dense: bool = False,
    n_sampled: int = 0,
    repeats: int = 9,
) -> dict[str, Any]:
    """Time a gradient of a batch of 100 digits, by distnum, the article's loop and backpropagation.

    Args:
        sizes, activation, scheme, dtype, h: The network and the differences.
        dense: Whether to use random examples without zeros instead of digits.
        n_sampled: Parameters for which the article's loop is timed; with 0 it is left out.
        repeats: Number of timed gradients.

    Backpropagation is timed for ReLU networks only.
    """
    network, dataset = Network(sizes, activation), load_data()
    params = network.initial_params(dtype=dtype)
    generator = np.random.default_rng(0)
    objective = Propagation(network, scheme, h)
    times: dict[str, list[float]] = {"distnum": []}
    if n_sampled:
        times["article"] = []
    if activation == "relu":
        times["backpropagation"] = []
    error = 0.0
    with single_threaded_blas():
        for repeat in range(repeats + 1):
            batch = batch_at(dataset, 0, 100, dtype, repeat + 1)
            if dense:
                batch = batch._replace(x=generator.random(batch.x.shape).astype(dtype))

            def ours(batch: Any = batch) -> np.ndarray:
                return propagated(objective, params, batch)

            calls: dict[str, Callable[[], Any]] = {"distnum": ours}
            if activation == "relu":
                calls["backpropagation"] = lambda batch=batch: backpropagation(network, params, batch)
            seconds = {name: timed(call) for name, call in calls.items()}
            if n_sampled:
                seconds["article"] = article_seconds(network, params, batch, n_sampled, generator)
            if repeat == 0:
                continue  # a warm-up
            for name, value in seconds.items():
                times[name].append(value)
            if activation == "relu" and len(sizes) == 3:
                far = ~kinks_within(network, params, batch, h * objective.scheme.reach)
                difference = (ours() - backpropagation(network, params, batch))[far]
                error = max(error, float(np.linalg.norm(difference) / np.linalg.norm(ours()[far])))
    row: dict[str, Any] = {
        "network": str(network),
        "n_params": network.n_params,
        "activation": activation,
        "scheme": scheme,
        "dtype": dtype,
        "h": h,
        "dense": dense,
        "times": {name: spread(seconds) for name, seconds in times.items()},
    }
    if n_sampled:
        row["article / distnum"] = paired_ratio(times["article"], times["distnum"])
    if activation == "relu":
        row["distnum / backpropagation"] = paired_ratio(times["distnum"], times["backpropagation"])
    if error:
        row["error_off_kinks"] = error
    return row


def compare_gradients() -> list[dict[str, Any]]:
    """Compare all settings."""
    return [compare(**setting) for setting in SETTINGS]


def print_gradients(rows: list[dict[str, Any]]) -> None:
    """Print what ``compare_gradients`` returned."""
    print(
        "One gradient of a batch of 100 digits on one core\n"
        "(medians; error relative to backpropagation, away from kinks)\n"
    )
    print(f"  {'':<42} {'ms':>8}  {'min - max':>15} {'x backprop':>10} {'article/':>9} {'error':>8}")
    for row in rows:
        ours = row["times"]["distnum"]
        name = f"{row['network']} {row['activation']} {row['scheme']} {row['dtype']}" + (" dense" * row["dense"])
        between = f"{ours['min_s'] * 1e3:,.1f} - {ours['max_s'] * 1e3:,.1f}"
        columns = (
            ("distnum / backpropagation", 10, ".1f"),
            ("article / distnum", 9, ",.0f"),
            ("error_off_kinks", 8, ".1e"),
        )
        others = " ".join(f"{format(row[key], form) if key in row else '':>{width}}" for key, width, form in columns)
        print(f"  {name:<42} {ours['median_s'] * 1e3:8,.1f}  {between:>15} {others}".rstrip())
    for row in rows:
        if "article" in row["times"]:
            article_s, backward_s = row["times"]["article"]["median_s"], row["times"]["backpropagation"]["median_s"]
            print(
                f"\n  {row['network']}: the article's loop {article_s * 1e3:,.0f} ms, "
                f"backpropagation {backward_s * 1e3:.2f} ms"
            )


if __name__ == "__main__":
    print_gradients(compare_gradients())
