"""Text for users and files."""

from __future__ import annotations

import pytest

from distnum.common.text import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (3.14, "3.1 s"),
        (75, "75 s"),
        (600, "10 min"),
        (1e5, "27 h 47 min"),
        (1e6, "12 days"),
    ],
)
def test_durations_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
