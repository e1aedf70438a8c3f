"""How processes end that evaluate a function: recorded in a file, which tells whether the function ended its process.

A worker writes the file; the driver reads it after the worker's death.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TextIO

from distnum.evaluation.ray_workers.exits import CExits

__all__ = ["FALLBACK_S", "End", "Guard", "end_family", "end_of"]

FALLBACK_S = 2.0
"""Seconds after the time limit at which a process ends that holds Python's global lock."""

_MARK, _FATAL = "distnum: ", "Fatal Python error: "
# Between looks for an evaluation whose time is over.
_LOOK_S = 0.25
# Signals that end a worker at once, by their numbers.
_DEADLY = {int(getattr(signal, name)): name for name in ("SIGKILL", "SIGTERM") if hasattr(signal, name)}
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


@dataclass(frozen=True)
class End:
    """How the process of an evaluation ended.

    Attributes:
        kind: ``"timeout"``, ``"crash"``, or ``"lost"`` if the function is not known to be the cause.
        text: The reason, as the end of a sentence.
        trace: Where the function was.
        number: Number of the point; None if unknown.
    """

    kind: str
    text: str
    trace: str
    number: int | None = None


def end_of(content: bytes) -> End | None:
    """The end that the file of a worker tells; None if it tells nothing."""
    if len(content) == 1 or content[1:].startswith(_FATAL.encode()):  # what ``exit`` calls may crash, too
        return End("crash", f"ended its process with exit status {content[0]}", "")
    first, _, rest = content.decode(errors="replace").partition("\n")
    if first.startswith(_MARK):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            fields = json.loads(first.removeprefix(_MARK))
            return End(str(fields["kind"]), str(fields["text"]), rest, fields["number"])
        return None
    if first.startswith("Timeout ("):
        return End("timeout", "took longer than its time limit, and held Python's global lock", _innermost(rest))
    if first.startswith(_FATAL):
        name = first.removeprefix(_FATAL)
        number = f" ({_SIGNALS[name]})" if name in _SIGNALS else ""
        return End("crash", f"crashed its process: {name}{number}", _innermost(rest))
    return None


def _innermost(trace: str) -> str:
    """What ``faulthandler`` writes of the main thread, its last one, down to the frames of this package."""
    _, _, main = trace.rpartition("most recent call first):\n")
    frames = []
    for line in main.partition("\n\n")[0].splitlines():
        if f'File "{os.path.dirname(__file__)}{os.sep}' in line:
            break
        frames.append(line)
    return "Innermost first:\n" + "\n".join(frames) if frames else ""


class Guard:
    """Records the end of this process, if the function causes it, and ends evaluations that take too long.

    Args:
        file: The file; None to record nothing.

    Attributes:
        number: Number of the point that is being evaluated; None if unknown.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self.number: int | None = None
        self._computing = False
        self._ends: float | None = None  # when the time of the present evaluation is over
        self._timeout = 0.0
        self._fallback_from = -1e300
        self._active = threading.Event()
        self._watching = False
        self._c_exits = None if file is None else CExits(file)
        self._record_own_ends()

    def __enter__(self) -> Guard:
        self._computing = True
        if self._c_exits is not None:
            self._c_exits.on()
        return self

    def __exit__(self, *_: object) -> None:
        self._computing = False
        if self._c_exits is not None:
            self._c_exits.off()
        self._ends = self.number = None
        if self._active.is_set():
            self._active.clear()
            faulthandler.cancel_dump_traceback_later()
            self._fallback_from = -1e300

    def limited(self, function: Callable[..., Any], timeout: float, vectorized: bool = False) -> Callable[..., Any]:
        """A function that ends this process and its children if it takes longer than ``timeout`` seconds.

        A vectorized function has that time for each of its points.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin(timeout * len(args[0]) if vectorized else timeout)
            try:
                return function(*args, **kwargs)
            finally:
                self._ends = None

        return call

    def _begin(self, timeout: float) -> None:
        now = perf_counter()
        self._timeout = timeout
        self._ends = now + timeout
        if not self._active.is_set():
            self._active.set()
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, daemon=True, name="distnum-limit").start()
        # It works without Python's global lock, but starts a thread each time; so not for every short evaluation.
        if self._file is not None and now > self._fallback_from + FALLBACK_S / 2:
            self._fallback_from = now
            faulthandler.dump_traceback_later(timeout + FALLBACK_S, exit=True, file=self._file)

    def _watch(self) -> None:
        while True:
            self._active.wait()
            ends, now = self._ends, perf_counter()
            if ends is None:
                pause_s = min(_LOOK_S, self._timeout / 4)
            elif now < ends:
                pause_s = ends - now
            else:
                self._write("timeout", f"took longer than its time limit of {self._timeout:g} s")
                self._computing = False  # so that the signal is not recorded
                end_family(os.getpid())
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait(pause_s)

    def _write(self, kind: str, text: str) -> None:
        """Write the end of this process, with the place where its main thread is, into the file."""
        if self._file is None:
            return
        fields = json.dumps({"kind": kind, "text": text, "number": self.number})
        with contextlib.suppress(OSError, ValueError):
            self._file.write(f"{_MARK}{fields}\n{_stack_of_the_function()}")
            self._file.flush()

    def _record_own_ends(self) -> None:
        """Let ``os._exit`` and ``os.kill`` say that the function has ended this process by them."""
        pid, end, kill = os.getpid(), os._exit, os.kill

        def recorded_exit(status: int) -> None:
            if os.getpid() == pid and self._computing:
                self._write("crash", f"ended its process: os._exit({status})")
            end(status)

        def recorded_kill(process: int, number: int) -> None:
            name = _DEADLY.get(number)
            if name and process in (pid, 0, -pid) and os.getpid() == pid and self._computing:
                self._write("crash", f"ended its process: os.kill(os.getpid(), {name})")
            kill(process, number)

        os._exit = recorded_exit  # type: ignore[assignment]
        os.kill = recorded_kill


def _stack_of_the_function() -> str:
    """Where the main thread is, without the frames of Ray and of this package below and above the function."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames = [] if frame is None else traceback.extract_stack(frame)
    while frames and frames[-1].filename == __file__:
        frames.pop()
    own = [
        position for position, one in enumerate(frames) if os.path.dirname(one.filename) == os.path.dirname(__file__)
    ]
    inner = frames[own[-1] + 1 :] if own else []
    return "".join(traceback.format_list(inner or frames))


def end_family(pid: int) -> None:
    """Kill the children of a process of this machine, and theirs, and all of the process group that it leads.

    The process itself is killed only with its group.
    """
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if hasattr(os, "killpg") and pid > 1:
        with contextlib.suppress(OSError):  # it leads no group, or its group has ended
            os.killpg(pid, signal.SIGKILL)
