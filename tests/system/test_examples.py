"""The examples run from end to end, each as a program of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def output(name: str, *arguments: str) -> str:
    """What an example prints; it must succeed."""
    command = [sys.executable, f"examples/{name}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout


def number(pattern: str, printed: str) -> float:
    """The number at the group of a pattern."""
    found = re.search(pattern, printed)
    assert found is not None, printed
    return float(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_a_system_of_differential_equations_is_fitted(workers: int) -> None:
    printed = output("fit_reactions", "--workers", str(workers))
    assert number(r"largest error of a rate constant: ([0-9.]+)%", printed) < 5
    if workers:  # how fast they are is measured, not checked
        assert number(r"one Jacobian: .* on 2 workers, ([0-9.]+) times as fast", printed) > 0


def test_an_external_program_is_fitted() -> None:
    printed = output("external_program")
    assert number(r"before: at most ([0-9.]+) degrees", printed) > 1
    assert number(r"after: +at most ([0-9.]+) degrees", printed) < 0.5
    assert number(r"rate = ([0-9.]+) ", printed) == pytest.approx(0.039, abs=0.002)


@pytest.mark.slow
def test_the_loop_of_the_article_learns() -> None:
    assert number(r"step 100: loss [0-9.]+, test accuracy ([0-9.]+)", output("article_loop")) > 0.6
