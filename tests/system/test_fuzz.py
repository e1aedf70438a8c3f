"""Some damaged files of each kind; ``python -m tests.fuzz`` reads as many as one asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import fuzz, readers

NAMES = ["checkpoint", "slices", "idx", "idx.gz", "npz", "toml", "model", "metrics", "scaling", "archive"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_get_clear_errors(name: str, tmp_path: Path) -> None:
    kinds = readers(tmp_path)
    assert sorted(kinds) == sorted(NAMES)
    assert fuzz(name, kinds[name], 150, tmp_path) >= 150
