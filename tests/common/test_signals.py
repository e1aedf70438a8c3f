"""Signals that ask a process to end are handled in a block only."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from distnum.common.signals import handled_signals


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Handle signals as in a command of a shell, even if the tests run under nohup or in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_handled_in_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    received: list[int] = []
    with handled_signals(lambda number, frame: received.append(number)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_raise_a_keyboard_interrupt_by_default() -> None:
    with handled_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with handled_signals():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def use() -> object:
        with handled_signals():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(use).result() == before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_a_handler_that_was_not_set_by_python_stays() -> None:
    code = """
import ctypes, signal
from distnum.common.signals import handled_signals
ctypes.CDLL(None).signal(signal.SIGHUP, ctypes.CDLL(None).abs)  # any function of one number
_signal_getsignal = signal.getsignal
signal.getsignal = lambda number: None if number == signal.SIGHUP else _signal_getsignal(number)
with handled_signals():
    signal.raise_signal(signal.SIGHUP)
signal.raise_signal(signal.SIGHUP)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_start_of_the_command_line_imports_little() -> None:
    code = "import sys; before = set(sys.modules); import distnum.__main__; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert {name for name in imported if name.startswith("distnum")} == {
        "distnum",
        "distnum.__main__",
        "distnum.common",
        "distnum.common.signals",
        "distnum.common.version",
    }
    assert not {"numpy", "argparse", "logging", "json", "subprocess"} & set(imported)
