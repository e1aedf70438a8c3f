"""The commands that read a run, as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.processes import (
    run,
)

pytestmark = pytest.mark.process


def test_plot_draws_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    run("train", "--workers", "0", "--steps", "3", "--out", "run", "--quiet", cwd=tmp_path)
    done = run("plot", "run", cwd=tmp_path)
    assert done.stdout.split() == ["run/loss.png", "run/weights.png"]
    assert (tmp_path / "run" / "weights.png").read_bytes().startswith(b"\x89PNG")
