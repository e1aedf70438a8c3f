"""A few faults of each kind; ``python -m tests.chaos`` injects any number."""

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
    reason="network namespaces need root and the ip command of iproute2",
)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("place", "n_faults"), [("machine", 10), ("raylets", 3), pytest.param("namespaces", 3, marks=root)]
)
def test_faults_do_not_change_the_bits(place: str, n_faults: int) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--faults", str(n_faults), "--places", place, "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    total = re.search(r"\| all \| (\d+) \| (\d+) \|", done.stdout)
    assert total is not None
    assert int(total[1]) == int(total[2]) >= n_faults, done.stdout
