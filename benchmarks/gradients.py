"""What a gradient costs beside the article's loop and beside backpropagation, on one core.

    python -m benchmarks.gradients

The article's loop is timed on a random sample of parameters and scaled to all of them.
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

# Of the article's network, what else a user would try; and a deeper one.
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
    """Seconds of the article's loop for all parameters: two forward passes each, some of them timed."""
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
    """A gradient of a batch of 100 digits (or of 100 examples without a zero): seconds of each rival.

    The article's loop takes part where ``n_sampled`` is not zero, backpropagation where it
    is the same quantity, a ReLU network's.
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
            found = {name: timed(call) for name, call in calls.items()}
            if n_sampled:
                found["article"] = article_seconds(network, params, batch, n_sampled, generator)
            if repeat == 0:
                continue  # a warm-up
            for name, seconds in found.items():
                times[name].append(seconds)
            if activation == "relu" and len(sizes) == 3:
                far = ~kinks_within(network, params, batch, h * objective.scheme.reach)
                difference = (ours() - backpropagation(network, params, batch))[far]
                error = max(error, float(np.linalg.norm(difference) / np.linalg.norm(ours()[far])))
    told: dict[str, Any] = {
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
        told["article / distnum"] = paired_ratio(times["article"], times["distnum"])
    if activation == "relu":
        told["distnum / backpropagation"] = paired_ratio(times["distnum"], times["backpropagation"])
    if error:
        told["error_off_kinks"] = error
    return told


def compare_gradients() -> list[dict[str, Any]]:
    """``compare`` for all the settings."""
    return [compare(**setting) for setting in SETTINGS]


def print_gradients(rows: list[dict[str, Any]]) -> None:
    """Print what ``compare_gradients`` returned."""
    print("One gradient of a batch of 100 digits on one core (medians; error beside backpropagation off kinks)\n")
    print(f"  {'':<42} {'ms':>8}  {'min - max':>15} {'x backprop':>10} {'article/':>9} {'error':>8}")
    for row in rows:
        ours = row["times"]["distnum"]
        name = f"{row['network']} {row['activation']} {row['scheme']} {row['dtype']}" + (" dense" * row["dense"])
        between = f"{ours['min_s'] * 1e3:,.1f} - {ours['max_s'] * 1e3:,.1f}"
        backward = row.get("distnum / backpropagation")
        article = row.get("article / distnum")
        print(
            f"  {name:<42} {ours['median_s'] * 1e3:8,.1f}  {between:>15} "
            f"{f'{backward:.1f}' if backward else '':>10} {f'{article:,.0f}' if article else '':>9} "
            f"{row.get('error_off_kinks', 0) or '':>8.1e}"
            if row.get("error_off_kinks")
            else f"  {name:<42} {ours['median_s'] * 1e3:8,.1f}  {between:>15} "
            f"{f'{backward:.1f}' if backward else '':>10} {f'{article:,.0f}' if article else '':>9}"
        )
    for row in rows:
        if "article" in row["times"]:
            article_s, backward_s = row["times"]["article"]["median_s"], row["times"]["backpropagation"]["median_s"]
            print(
                f"\n  {row['network']}: the article's loop {article_s * 1e3:,.0f} ms, "
                f"backpropagation {backward_s * 1e3:.2f} ms"
            )


if __name__ == "__main__":
    print_gradients(compare_gradients())
