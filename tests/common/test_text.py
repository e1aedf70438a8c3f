"""Text for users and files."""

from __future__ import annotations

import pytest

from distnum import InputError, TrainingError
from distnum.common.text import duration, first_line, print_remark, printable


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


HOSTILE = "\x1b]0;title\x07\x9b2J\u202e\u2066\u200f\x7f\x00\x85\u2028\ufeff\r\b"


def test_control_characters_are_escaped_and_letters_are_not() -> None:
    assert printable(HOSTILE) == (r"\x1b]0;title\x07\x9b2J\u202e\u2066\u200f\x7f\x00\x85\u2028\ufeff\r\x08")
    assert printable("a\tb\nc\r", keep="\n\t") == "a\tb\nc\\r"
    for text in ("Übung_日本語 \u00a0\u3000 'x' \\n", "\N{GRINNING FACE}"):
        assert printable(text) == text
    assert printable("\udcff") == r"\udcff"
    assert all(printable(chr(number)).isprintable() for number in (*range(32), *range(127, 160)))


@pytest.mark.parametrize("kind", [InputError, TrainingError])
def test_messages_of_errors_hold_no_control_characters(kind: type[Exception]) -> None:
    assert str(kind(f"file {HOSTILE} is damaged")).isprintable()
    assert str(kind("two\nlines")) == "two\nlines"


def test_remarks_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_remark(f"distnum: {HOSTILE}")
    assert capsys.readouterr().err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "message",
    [
        "403, message='Forbidden', url='https://bucket.host/x?X-Amz-Date=1&X-Amz-Signature=0a1b'",
        "Max retries exceeded with url: /x?sig=0a1b (Caused by ProxyError)",
        "cannot connect to http://user:0a1b@proxy:8080/",
        "cannot connect to HTTPS://0a1b@host/",
        "redirected to https://host/x#access_token=0a1b",
    ],
)
def test_messages_of_libraries_lose_their_secrets(message: str) -> None:
    assert "0a1b" not in first_line(OSError(message))
    assert "..." in first_line(OSError(message))
    assert first_line(OSError("sftp://user@host/x: why? no = sign")) == "sftp://user@host/x: why? no = sign"
