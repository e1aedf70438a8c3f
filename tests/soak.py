"""Train for many steps on Ray and watch the memory of all processes.

    python -m tests.soak --steps 20000

Prints the resident memory of the driver, the workers and Ray's servers, and the used memory of the
object store. Exits with 1 if one of them grows by more than ``ALLOWED_MB`` from the first quarter of
the run to the last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import psutil

import distnum

# Caches fill up, and pages come and go.
ALLOWED_MB = 12.0
N_MEASUREMENTS = 40


def memory_mb() -> dict[str, float]:
    """Return the megabytes used by the driver, all workers, Ray's servers and the object store."""
    n_bytes = {"driver": psutil.Process().memory_info().rss, "workers": 0, "servers": 0}
    for process in psutil.Process().children(recursive=True):
        try:
            kind = "workers" if process.name().startswith("ray::Distnum") else "servers"
            n_bytes[kind] += process.memory_info().rss - process.memory_info().shared
        except psutil.NoSuchProcess:
            continue
    import ray

    available, total = ray.available_resources(), ray.cluster_resources()
    n_bytes["object store"] = int(total["object_store_memory"] - available.get("object_store_memory", 0))
    return {name: n / 1e6 for name, n in n_bytes.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--workers", default="2")
    options = parser.parse_args()
    every = max(1, options.steps // N_MEASUREMENTS)
    rows: list[dict[str, float]] = []

    def on_step(step: Any, row: Any) -> None:
        if step.step % every == 0:
            rows.append(memory_mb())
            if len(rows) % 4 == 0:
                memory = ", ".join(f"{name} {mb:.1f} MB" for name, mb in rows[-1].items())
                print(f"step {step.step:7,}: {memory}", flush=True)

    distnum.train(
        hidden=(20,), batch_size=50, steps=options.steps, workers=options.workers, evaluate_every=1000, on_step=on_step
    )
    quarter = max(1, len(rows) // 4)
    worst = 0.0
    for name in rows[0]:
        early = statistics.median(row[name] for row in rows[:quarter])
        late = statistics.median(row[name] for row in rows[-quarter:])
        worst = max(worst, late - early)
        print(f"{name:<13} {early:8.1f} MB in the first quarter, {late:8.1f} MB in the last")
    return 0 if worst < ALLOWED_MB else 1


if __name__ == "__main__":
    sys.exit(main())
