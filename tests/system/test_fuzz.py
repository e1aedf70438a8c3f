"""Some damaged files of each kind; ``python -m tests.fuzz`` reads any number."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from tests.fuzz.readers import fuzz, readers

NAMES = ["checkpoint", "slices", "idx", "idx.gz", "npz", "toml", "model", "metrics", "scaling", "archive"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_give_clear_errors(name: str, tmp_path: Path) -> None:
    kinds = readers(tmp_path)
    assert sorted(kinds) == sorted(NAMES)
    n_inputs = hypothesis.settings().max_examples
    assert fuzz(name, kinds[name], n_inputs, tmp_path) >= n_inputs
