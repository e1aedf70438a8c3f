"""Marks in the tests of other tools."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks of SciPy's tests."""
    config.addinivalue_line("markers", "fail_slow: seconds that a test of SciPy may take; not checked here")
