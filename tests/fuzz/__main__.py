"""Read many damaged files.

    python -m tests.fuzz --inputs 100000

Exits with 1 at the first file that does not give a clear error, or takes too long or too much memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.fuzz.readers import fuzz, readers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inputs", type=int, default=100_000, help="number of files, of all kinds together (default: 100000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        kinds = readers(Path(folder))
        for name, reader in kinds.items():
            started = time.monotonic()
            n = fuzz(name, reader, -(-options.inputs // len(kinds)), Path(folder), options.seed)
            total += n
            print(f"{name:<12} {n:8,} inputs in {time.monotonic() - started:6.1f} s: clear errors only", flush=True)
    print(f"{total:,} inputs")
    return 0 if total >= options.inputs else 1


if __name__ == "__main__":
    sys.exit(main())
