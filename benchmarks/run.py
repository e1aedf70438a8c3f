"""What a gradient costs beside the article's loop and beside backpropagation, and what Ray adds.

    python benchmarks/run.py              # prints tables; about three minutes
    python benchmarks/run.py --json FILE  # and keeps the figures

The rivals of a comparison take turns in one run, so that a machine that slows down slows
all of them; medians are shown, with the fastest and the slowest run. The article's loop is
timed on a random sample of parameters and scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

import distnum.pools
from distnum.data import batch_at, load_data
from distnum.networks import Network
from distnum.plan import make_shards
from distnum.pools import RayPool, SerialPool, single_threaded_blas
from distnum.propagation import Propagation
from distnum.runs import machine_facts, version_facts

H = 1e-4


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


def backpropagation(network: Network, params: np.ndarray, batch: Any) -> np.ndarray:
    """The gradient of a ReLU network with cross-entropy by a backward pass in NumPy."""
    x, y = batch
    forward = network.forward(params, x)
    e = np.exp(forward.outputs - forward.outputs.max(axis=1, keepdims=True))
    delta = e / e.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    grad = np.empty_like(params)
    for number in range(len(network.layers) - 1, -1, -1):
        layer = network.layers[number]
        rows = layer.rows(grad)
        np.matmul(forward.inputs[number].T, delta, out=rows[:-1])
        delta.sum(axis=0, out=rows[-1])
        if number:
            delta = (delta @ layer.rows(params)[:-1].T) * (forward.preactivations[number - 1] > 0)
    return grad


def timed(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median_s": float(np.median(seconds)), "min_s": min(seconds), "max_s": max(seconds)}


def compare_gradients(sizes: tuple[int, ...], n_sampled: int, repeats: int) -> dict[str, Any]:
    """One core, batch 100 of the digits in the package, central differences, float64."""
    network = Network(sizes)
    params, dataset = network.initial_params(), load_data()
    generator = np.random.default_rng(0)
    objective = Propagation(network, "central", H)
    everything = np.arange(len(objective.tiles) - 1)
    times: dict[str, list[float]] = {"article": [], "distnum": [], "backpropagation": []}
    with single_threaded_blas():
        for repeat in range(repeats + 1):
            batch = batch_at(dataset, 0, 100, np.float64, repeat + 1)
            article = article_seconds(network, params, batch, n_sampled, generator)
            ours = timed(lambda batch=batch: objective.at(params, batch).grad_slice(everything))
            backward = min(timed(lambda batch=batch: backpropagation(network, params, batch)) for _ in range(3))
            if repeat:  # the first is a warm-up
                times["article"].append(article)
                times["distnum"].append(ours)
                times["backpropagation"].append(backward)
    ratios = {
        "article / distnum": np.median(np.array(times["article"]) / times["distnum"]),
        "distnum / backpropagation": np.median(np.array(times["distnum"]) / times["backpropagation"]),
    }
    return {
        "network": str(network),
        "n_params": network.n_params,
        "times": {name: spread(seconds) for name, seconds in times.items()},
        "ratios": {name: float(ratio) for name, ratio in ratios.items()},
    }


def compare_pools(n_steps: int) -> list[dict[str, Any]]:
    """Steps of the main job's gradient on each kind of pool, and what they cost beside computing."""
    network, dataset = Network((784, 50, 10)), load_data()
    objective = Propagation(network, "central", H)
    params = network.initial_params()
    source = partial(batch_at, dataset, 0, 100, np.float64)
    rows = []
    for name, n_workers, inline in (
        ("this process", 0, True),
        ("1 worker, inside the call", 1, True),
        ("1 worker, object store", 1, False),
        ("2 workers, inside the call", 2, True),
        ("2 workers, object store", 2, False),
    ):
        distnum.pools._MOST_INLINE_WORKERS = 4 if inline else 0
        pool: Any = RayPool(objective, source, n_workers) if n_workers else SerialPool(objective, source)
        with pool, single_threaded_blas():
            step_s, beside_s = [], []
            for step in range(1, n_steps + 11):
                costs = objective.at(params, source(step)).costs
                started = perf_counter()
                slices = pool.grad_slices(step, params, make_shards(costs, pool.n_workers))
                elapsed = perf_counter() - started
                if step > 10:
                    step_s.append(elapsed)
                    beside_s.append(elapsed - max(grad_slice.compute_s for grad_slice in slices))
        rows.append({"pool": name, "step": spread(step_s), "beside_computing": spread(beside_s)})
    return rows


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--repeats", type=int, default=11, metavar="N", help="runs of each (default: 11)")
    options = parser.parse_args()

    gradients = [
        compare_gradients((784, 50, 10), 400, options.repeats),
        compare_gradients((784, 256, 256, 10), 150, options.repeats),
    ]
    print("One gradient of a batch of 100 digits, central differences, float64, one core (median, min - max)\n")
    for one in gradients:
        print(f"{one['network']}, {one['n_params']:,} parameters")
        for name, seconds in one["times"].items():
            low, high = seconds["min_s"] * 1e3, seconds["max_s"] * 1e3
            print(f"  {name:<16} {seconds['median_s'] * 1e3:12,.1f} ms   ({low:,.1f} - {high:,.1f})")
        for name, ratio in one["ratios"].items():
            print(f"  {name:<26} {ratio:10,.1f}")
        print()

    pools = compare_pools(100)
    print("Steps of 784-50-10 (median)\n\n  pool                            step  beside computing")
    for row in pools:
        step, beside = row["step"]["median_s"] * 1e3, row["beside_computing"]["median_s"] * 1e3
        print(f"  {row['pool']:<28} {step:5.1f} ms  {beside:13.1f} ms")
    if options.json:
        told = {"gradients": gradients, "pools": pools, "machine": machine_facts(), "versions": version_facts()}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(told | {"commit": commit()}, file, indent=2)


if __name__ == "__main__":
    main()
