"""Run the benchmarks and print their tables.

    pip install -e '.[bench]'                         # '.[bench,bench-training]' for PGPE too
    python -m benchmarks                              # all parts; about half an hour
    python -m benchmarks gradients overhead           # only these parts
    python -m benchmarks --json FILE --picture FILE   # also write the figures, plot the growth

The entries of a comparison take turns, so that a machine that slows down affects all of them. The
tables show medians, with the fastest and the slowest run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from typing import Any

from benchmarks.errors import compare_errors, print_errors
from benchmarks.evaluations import compare_evaluations, print_evaluations
from benchmarks.gradients import compare_gradients, print_gradients
from benchmarks.growth import draw, measure_growth, print_growth
from benchmarks.limits import find_limits, print_limits
from benchmarks.memory import measure_memory, print_memory
from benchmarks.overhead import measure_all, print_overhead
from benchmarks.profile import print_profile, profile_all
from benchmarks.rivals import compare_rivals, print_rivals
from benchmarks.scaling import compare_scaling, print_scaling
from benchmarks.startup import measure_startup, print_startup
from benchmarks.training import compare_training, print_training
from benchmarks.waiting import compare_waiting, print_waiting
from distnum.common.machine import git_commit, machine_facts, version_facts

PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "gradients": (compare_gradients, print_gradients),
    "errors": (compare_errors, print_errors),
    "evaluations": (compare_evaluations, print_evaluations),
    "profile": (profile_all, print_profile),
    "memory": (measure_memory, print_memory),
    "scaling": (compare_scaling, print_scaling),
    "waiting": (compare_waiting, print_waiting),
    "overhead": (measure_all, print_overhead),
    "limits": (find_limits, print_limits),
    "startup": (measure_startup, print_startup),
    "rivals": (compare_rivals, print_rivals),
    "growth": (measure_growth, print_growth),
    "training": (compare_training, print_training),
}


def main() -> None:
    """Run the chosen parts, print their tables, and write their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--picture", metavar="FILE", help="plot the growth to a PNG file")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "commit": git_commit() or "unknown",
        "machine": machine_facts(),
        "versions": version_facts(),
        "blas_threads": 1,
    }
    print(
        ", ".join(f"{name} {value}" for name, value in (results["machine"] | results["versions"]).items()), end="\n\n"
    )
    for name in options.parts or PARTS:
        run, show = PARTS[name]
        results[name] = run()
        show(results[name])
        print(flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=2)
    if options.picture and "growth" in results:
        draw(results["growth"], options.picture)


if __name__ == "__main__":
    main()
