"""Marks in the tests of other tools."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks of SciPy's tests."""
    config.addinivalue_line("markers", "fail_slow: seconds that a test of SciPy may take; not checked here")


@pytest.fixture(autouse=True)
def _sigterm_ends_processes() -> Iterator[None]:
    """Let SIGTERM end processes of ``multiprocessing``, also those that have not begun yet.

    Ray handles it in Python, and a signal that comes before a copied process can handle it is lost.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    if before is not None:
        signal.signal(signal.SIGTERM, before)
