"""Limits of the design: simulated steps of up to thousands of workers.

    python -m benchmarks.limits

The times of asking a worker and taking its answer are measured on workers that have almost nothing to
compute. The other times are assumptions, which are printed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

import distnum
from benchmarks.simulation import Design, Misfortune, simulate_design
from distnum.scaling.fit import fit_model
from distnum.scaling.model import Link
from distnum.scaling.simulation import System

MEASURED = (1, 2, 4, 8, 16, 32)
WORKERS = (1, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
PER_NODE = 16
LINK = Link(gbit_per_s=10)
# (parameters, seconds of a step on one core): the article's network, larger networks, and simulators.
WORKS = ((40_000, 0.005), (1_000_000, 1.0), (100_000_000, 1000.0), (10_000, 100.0), (10_000, 10_000.0))
DESIGNS = {
    "as it is": Design(),
    "tree": Design(fan=100),
    "sharded": Design(sharded_update=True),
    "both": Design(fan=100, sharded_update=True),
    "two in flight": Design(in_flight=2),
}
MISFORTUNES = {
    "none": Misfortune(),
    "one shard in 100 takes 10 x longer": Misfortune(straggler_share=0.01, straggler_factor=10),
    "one failure per worker and day": Misfortune(failures_per_hour=1 / 24, detect_s=5),
}


def nothing(w: NDArray[np.floating], batch: None) -> float:
    """Compute nothing."""
    return 0.0


def measured_costs() -> dict[str, float]:
    """Measure the seconds of asking one worker, of taking one answer, and of the constant parts of a step.

    The workers are asked by calls of Ray, as on a cluster; in a session started by distnum they would be
    asked over sockets.
    """
    os.environ |= {"RAY_worker_maximum_startup_concurrency": str(max(MEASURED))}  # otherwise Ray warns
    ray.init(num_cpus=max(MEASURED), include_dashboard=False, log_to_driver=False, logging_level="error")
    result = distnum.scale(nothing, np.ones(64), workers=MEASURED, steps=100, warmup=10, repeats=3, h=1e-3)
    ray.shutdown()
    # More workers than cores are valid here, as they have nothing to compute.
    rows = [replace(one, busy=0.0) for one in result.measurements]
    system = System.of(fit_model(rows, lambda k: 1.0, 8 * 64, LINK), np.ones(1))
    return {"ask_s": system.ask_s, "take_s": system.take_s, "fixed_s": system.fixed_s}


def find_limits() -> dict[str, Any]:
    """Simulate steps of each work, design and number of workers, and steps with stragglers and failures."""
    costs = measured_costs()
    rows, misfortunes = [], []
    for n_params, work_s in WORKS:
        tiles = np.ones(min(n_params, 65_536))
        coarse = np.ones(min(n_params, 4096))
        for name, design in DESIGNS.items():
            for granularity in ("tiles", "coarser tiles") if name in ("as it is", "both") else ("tiles",):
                system = System(
                    work_s=work_s,
                    repeated_s=0.0,
                    jitter_s=0.0,
                    costs=tiles if granularity == "tiles" else coarse,
                    node_s=LINK.seconds(8 * n_params),
                    answers_s=LINK.seconds(8 * n_params),
                    workers_per_node=PER_NODE,
                    **costs,
                )
                step_s = {k: float(np.median(simulate_design(system, k, 3, design))) for k in WORKERS}
                rows.append(
                    {
                        "n_params": n_params,
                        "work_s": work_s,
                        "design": name + (", coarser tiles" if granularity != "tiles" else ""),
                        "step_s": step_s,
                        "half_efficient": max((k for k in WORKERS if work_s / k >= step_s[k] / 2), default=0),
                        "fastest": min(WORKERS, key=lambda k: step_s[k]),
                    }
                )
    sent_s = LINK.seconds(8 * 10_000)
    system = System(
        work_s=100.0,
        repeated_s=0.0,
        jitter_s=0.02,
        costs=np.ones(10_000),
        node_s=sent_s,
        answers_s=sent_s,
        workers_per_node=PER_NODE,
        **costs,
    )
    for name, misfortune in MISFORTUNES.items():
        step_s = {k: float(np.mean(simulate_design(system, k, 200, None, misfortune))) for k in (10, 100, 1000)}
        misfortunes.append({"misfortune": name, "step_s": step_s})
    return {
        "measured": costs,
        "per_node": PER_NODE,
        "gbit_per_s": LINK.gbit_per_s,
        "rows": rows,
        "misfortunes": misfortunes,
    }


def print_limits(result: dict[str, Any]) -> None:
    """Print what ``find_limits`` returned."""
    cost = {name: f"{seconds * 1e3:.2f} ms" for name, seconds in result["measured"].items()}
    print(
        f"Simulated steps. Measured here: asking a worker {cost['ask_s']}, taking an answer {cost['take_s']}, constant "
        f"{cost['fixed_s']}.\nAssumed: {result['per_node']} workers per node, {result['gbit_per_s']:g} Gbit/s.\n"
    )
    columns = ("half efficient", 14), ("fastest", 8), ("its step", 10), ("10,000", 10)
    heads = " ".join(f"{name:>{width}}" for name, width in columns)
    print(f"  {'parameters':>11} {'one core':>9}  {'design':<22} {heads}")
    for row in result["rows"]:
        step_s = row["step_s"]
        print(
            f"  {row['n_params']:>11,} {_short(row['work_s']):>9}  {row['design']:<22} {row['half_efficient']:>14,} "
            f"{row['fastest']:>8,} {_short(step_s[row['fastest']]):>10} {_short(step_s[10_000]):>10}"
        )
    print("\n  'half efficient': the largest number of workers (of those tried) with half of a step shared work\n")
    print("  100 s of work, 10,000 parameters: mean time of a step on 10, 100 and 1,000 workers\n")
    for row in result["misfortunes"]:
        print(f"  {row['misfortune']:<36} " + " ".join(f"{_short(s):>9}" for s in row["step_s"].values()))


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:,.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


if __name__ == "__main__":
    print_limits(find_limits())
