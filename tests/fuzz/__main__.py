"""Read many damaged files.

    python -m tests.fuzz --inputs 1000000

Exits with 1 at the first file that does not give a clear error, or takes too long or too much memory. The seed, the
kind and the number of a file, which the failure names, read it again:

    python -m tests.fuzz --kind npz --first 4711 --inputs 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from distnum.common.machine import n_cores
from tests.fuzz.fuzzing import Failed
from tests.fuzz.kinds import kinds
from tests.fuzz.process import prepare, read

_CHUNK = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inputs", type=int, default=100_000, help="number of files, of all kinds together (default: 100000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="only this kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first file of each kind (default: 0)")
    parser.add_argument("--processes", type=int, default=n_cores(), help="default: one for each core")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            names = [options.kind] if options.kind else list(kinds(Path(own)))
        n_each = -(-options.inputs // len(names))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, context, initializer=prepare, initargs=(folder,)) as pool:
            ends = range(options.first, options.first + n_each, _CHUNK)
            jobs = {
                pool.submit(read, name, options.seed, first, min(_CHUNK, options.first + n_each - first)): (
                    name,
                    first,
                )
                for first in ends
                for name in names
            }
            return _report(pool, jobs, n_each)


def _report(pool: ProcessPoolExecutor, jobs: dict, n_each: int) -> int:
    """Print each kind when all of its files are read; return the exit code."""
    n_read: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    started = time.monotonic()
    for job in as_completed(jobs):
        name, first = jobs[job]
        try:
            n, taken = job.result()
        except (Failed, BrokenProcessPool) as error:
            pool.shutdown(wait=True, cancel_futures=True)
            where = f"{name}, in inputs {first} to {first + _CHUNK}, ended the process: " * (
                not isinstance(error, Failed)
            )
            print(f"{where}{error}", flush=True)
            return 1
        n_read[name] += n
        seconds[name] += taken
        if n_read[name] == n_each:
            print(f"{name:<16} {n_each:8,} inputs in {seconds[name]:6.1f} s: clear errors only", flush=True)
    total, taken = n_read.total(), time.monotonic() - started
    print(f"{total:,} inputs in {taken:.0f} s, {total / taken:,.0f} each second")
    return 0


def _memory_disk() -> str | None:
    """A folder in memory, where Linux has one: the files are written and read again at once."""
    path = Path("/dev/shm")
    return str(path) if path.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
