"""Facts on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from distnum.common import machine


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(machine.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("distnum does not run from a checkout")
    command = ["git", "-C", str(root), "describe", "--always"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert machine.git_commit().removesuffix("-dirty") == commit


def test_without_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages" / "distnum" / "common" / "machine.py"))
    assert machine.git_commit() == ""
