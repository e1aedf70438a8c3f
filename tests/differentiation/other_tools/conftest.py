"""Marks in the tests of other tools."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks of SciPy's tests."""
    config.addinivalue_line("markers", "fail_slow: seconds that a test of SciPy may take; not checked here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs other tools as slow; their cases that are written anew here are fast."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name != "test_left_out_cases.py":
            item.add_marker(pytest.mark.slow)
