"""The examples run from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 2])
def test_a_system_of_differential_equations_is_fitted(workers: int) -> None:
    command = [sys.executable, "-W", "ignore", "examples/fit_reactions.py", "--workers", str(workers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    error = re.search(r"largest error of a rate constant: ([0-9.]+)%", done.stdout)
    assert error is not None
    assert float(error[1]) < 5
