"""Faults of some kinds; ``python -m tests.chaos`` injects any number of all kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/usr/sbin/ip").exists(),
    reason="network namespaces need root and the ip command of iproute2",
)


KINDS = {
    "machine": [
        "worker killed",
        "worker stopped",
        "driver killed while writing",
        "checkpoint flipped",
        "disk full",
        "own raylet killed",
    ],
    "raylets": ["node killed at the start", "control service killed"],
    "namespaces": ["link cut", "link restored", "node's raylet stopped"],
}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("place", ["machine", "raylets", pytest.param("namespaces", marks=root)])
def test_faults_do_not_change_the_bits(place: str, tmp_path: Path) -> None:
    kinds, out = KINDS[place], tmp_path / "faults.jsonl"
    command = [sys.executable, "-m", "tests.chaos", "--faults", str(len(kinds)), "--places", place, "--seed", "7"]
    command += ["--kinds", ",".join(kinds), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {json.loads(line)["kind"] for line in out.read_text().splitlines()} == set(kinds), done.stdout
