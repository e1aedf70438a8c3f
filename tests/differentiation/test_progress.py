"""What is shown of evaluations that take long; and that showing it never disturbs them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import distnum
from distnum.common.errors import InputError
from distnum.differentiation import progress
from distnum.differentiation.progress import Progress
from distnum.evaluation.outcomes import Failure, Outcomes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too short to be shown."""
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_QUIET_ROUND_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def finished(*numbers: int, failed: bool = False, cached: bool = False) -> Outcomes:
    failures = dict.fromkeys(numbers, Failure("exception", "no")) if failed else {}
    return Outcomes(np.array(numbers), np.zeros((len(numbers), 1)), None, np.ones(len(numbers)), failures, "", cached)


def on_terminal(function: Any) -> str:
    """What is shown on a terminal while a function runs."""
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal):
        function()
    return terminal.getvalue()


def cube(x: Any) -> float:
    return float(np.sum(x**3))


@pytest.mark.usefixtures("at_once")
def test_a_terminal_shows_evaluations_and_searches() -> None:
    shown = on_terminal(lambda: distnum.gradient(cube, np.array([1.0, 1e-9])))
    assert "evaluations 5/5" in shown
    assert "search" in shown
    assert shown.index("evaluations") < shown.index("search")


def test_short_work_shows_nothing() -> None:
    assert on_terminal(lambda: distnum.gradient(cube, np.ones(3))) == ""


@pytest.mark.usefixtures("at_once")
def test_nothing_is_shown_where_there_is_no_terminal_or_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    distnum.gradient(cube, np.ones(3))
    assert capsys.readouterr().err == ""
    assert on_terminal(lambda: distnum.gradient(cube, np.ones(3), progress=False)) == ""


def test_lines_are_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        distnum.gradient(cube, np.ones(40), progress=True, workers=pool)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("evaluations 0/81")
    assert lines[-1].startswith("evaluations 81/81")
    assert lines[-1].endswith("2 workers")


@pytest.mark.usefixtures("at_once")
def test_failures_speed_time_left_and_workers_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(True, lambda: 7)
    with shown.round("evaluations", 1000):
        shown.update(finished(0, 1))
        shown.update(finished(2, failed=True))
        shown.update(finished(*range(3, 900), cached=True))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("evaluations 900/1,000  ")
    for part in ("left", "1 failed", "/s", "7 workers"):
        assert part in last


def test_what_was_in_the_store_does_not_count_as_speed() -> None:
    tally = progress._Tally("evaluations", 100, 0.0)
    tally.add(finished(*range(50), cached=True))
    assert tally.parts(0) == []
    tally.add(finished(50))
    assert len(tally.parts(0)) == 2


def test_the_rate_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "perf_counter", lambda: now)
    tally = progress._Tally("evaluations", 10_000, 0.0)
    for number in range(100):  # one each second, then ten
        now += 1.0 if number < 50 else 0.1
        tally.add(finished(number))
        parts = tally.parts(2)
    assert parts == ["30 min left", "5.5/s", "2 workers"]
    slow = progress._Tally("evaluations", 100, now)
    for number in range(6):  # one in a minute
        now += 60.0
        slow.add(finished(number))
        parts = slow.parts(2)
    assert parts == ["1 h 34 min left", "one in 60 s", "2 workers"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("columns", ["1", "20", "30", "200"])
def test_narrow_terminals_show_less(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with ThreadPoolExecutor(2) as pool:
        shown = on_terminal(lambda: distnum.gradient(cube, np.ones(30), workers=pool))
    assert shown
    assert ("workers" in shown) == (columns == "200")


@pytest.mark.usefixtures("at_once")
def test_functions_may_print_and_close_the_stream() -> None:
    def closes(x: Any) -> float:
        sys.stderr.close()
        return cube(x)

    before = sys.stdout
    with contextlib.redirect_stderr(Terminal()):
        gradient = distnum.gradient(closes, np.ones(2))
    assert gradient.round(5).tolist() == [3, 3]
    assert sys.stdout is before


@pytest.mark.usefixtures("at_once")
def test_the_bar_is_gone_and_no_thread_stays_after_an_error() -> None:
    def fails(x: Any) -> float:
        raise ValueError("no")

    before = set(threading.enumerate())
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal), pytest.raises(ValueError, match="no"):
        distnum.gradient(fails, np.ones(2))
    assert terminal.getvalue().endswith("\x1b[2K")  # erases the line
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_the_first_evaluation_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()

    def waits(x: Any) -> float:
        deadline = time.monotonic() + 20
        while "evaluations 0/3" not in terminal.getvalue():
            assert time.monotonic() < deadline, "nothing is shown"
            time.sleep(0.01)
        return cube(x)

    with contextlib.redirect_stderr(terminal):
        distnum.gradient(waits, np.ones(1))


def test_rich_is_loaded_only_if_something_is_shown() -> None:
    code = (
        "import sys, distnum, numpy as np; distnum.gradient(lambda x: x @ x, np.ones(3)); print('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_other_values_are_refused() -> None:
    with pytest.raises(InputError, match="progress is 3; it must be True, False or None"):
        distnum.gradient(cube, np.ones(2), progress=3)  # type: ignore[typeddict-item]
