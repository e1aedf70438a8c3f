"""A few faults of each kind; ``python -m tests.chaos`` injects as many as one asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/usr/sbin/ip").exists(),
    reason="network namespaces need root, and ip of iproute2",
)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("place", "n_faults"), [("machine", 18), ("raylets", 3), pytest.param("namespaces", 4, marks=root)]
)
def test_no_fault_costs_a_bit(place: str, n_faults: int) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--faults", str(n_faults), "--places", place, "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = re.search(r"\| all \| (\d+) \| (\d+) \|", done.stdout)
    assert found is not None
    assert int(found[1]) == int(found[2]) >= n_faults, done.stdout
