"""Time from the command to the first step, and of Ray's own start.

    python -m benchmarks.startup

The line with the estimate is printed right before the first step. The first round is not counted: it
writes the compiled code to disk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from time import perf_counter
from typing import Any

from benchmarks.timing import spread

RAY = (
    "import time, ray; started = time.perf_counter(); "
    "ray.init(include_dashboard=False, logging_level='error', log_to_driver=False, object_store_memory=2**29); "
    "print(time.perf_counter() - started)"
)


def to_first_step(*options: str) -> float:
    """Return the seconds from starting the command to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "distnum", "train", "--steps", "1", "--out", f"{folder}/run", *options]
        started = perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("estimate"):
                elapsed = perf_counter() - started
        if process.wait() != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return elapsed


def ray_init() -> float:
    """Return the seconds of Ray's ``init`` in a new process."""
    done = subprocess.run([sys.executable, "-c", RAY], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_startup(repeats: int = 5) -> dict[str, Any]:
    """Time the first step with and without Ray, and Ray's ``init``, in turns."""
    times: dict[str, list[float]] = {"--workers 0": [], "--workers 2": [], "ray.init": []}
    for number in range(repeats + 1):
        seconds = [to_first_step("--workers", "0"), to_first_step("--workers", "2"), ray_init()]
        if number:
            for name, value in zip(times, seconds, strict=True):
                times[name].append(value)
    return {name: spread(seconds) for name, seconds in times.items()}


def print_startup(result: dict[str, Any]) -> None:
    """Print what ``measure_startup`` returned."""
    print("From the command to the first step (median, min - max)\n")
    for name, row in result.items():
        print(f"  {name:<14} {row['median_s']:5.2f} s   ({row['min_s']:.2f} - {row['max_s']:.2f})")


if __name__ == "__main__":
    print_startup(measure_startup())
