"""Shows the evaluations of a differentiation while they run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, TextIO

from distnum.common.text import duration, print_remark
from distnum.evaluation.outcomes import Outcomes

__all__ = ["Progress"]

# Nothing is shown of what takes less than this many seconds, unless it is asked for.
_QUIET_S = 2.0
# ... and later on nothing of a round that takes less than this.
_QUIET_ROUND_S = 0.3
# Without a terminal: a line after this many seconds.
_LINE_EVERY_S = 10.0
# The rate is that of the last seconds, or of this number of evaluations for each worker if these take longer.
_WINDOW_S = 10.0
_WINDOW_EVALUATIONS = 3
_NARROWEST_BAR = 8


class Progress:
    """Shows the rounds of evaluations, on the error stream.

    Args:
        show: True shows each round at once. None shows them on a terminal, two seconds after the first one began. False
            shows nothing.
        n_workers: Returns the number of workers at the time.
    """

    def __init__(self, show: bool | None, n_workers: Callable[[], int]) -> None:
        self._terminal = show is not False and _is_a_terminal(sys.stderr)
        self._show = show is True or (show is None and self._terminal)
        self._quiet_s, self._quiet_round_s = (0.0, 0.0) if show else (_QUIET_S, _QUIET_ROUND_S)
        self._n_workers = n_workers
        self._began: float | None = None
        self._lock = threading.Lock()
        self._bar: _Bar | _Lines | None = None
        self._tally = _Tally("", 0, 0.0)

    @contextmanager
    def round(self, name: str, n_points: int) -> Iterator[None]:
        """Show a round of evaluations in this context, if it takes long.

        Args:
            name: What is evaluated, such as ``"evaluations"``.
            n_points: How much of it.
        """
        if not self._show:
            yield
            return
        now = perf_counter()
        self._began = self._began or now
        self._tally = _Tally(name, n_points, now)
        wait_s = max(self._began + self._quiet_s - now, self._quiet_round_s)
        timer = threading.Timer(wait_s, self._begin)  # the first evaluation may take long
        timer.daemon = True
        if wait_s > 0:
            timer.start()
        else:
            self._begin()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                if self._bar is not None:
                    self._bar.close()
                self._bar = None
                self._tally = _Tally("", 0, 0.0)  # a timer that is late shows nothing

    def update(self, outcomes: Outcomes) -> None:
        """Count finished evaluations of the round."""
        if not self._show:
            return
        self._tally.add(outcomes)
        with self._lock:
            if self._bar is not None:
                self._bar.update()

    def _begin(self) -> None:
        with self._lock:
            if self._bar is None and self._tally.name:
                with suppress(Exception):  # what cannot be shown must not end the work
                    self._bar = (_Bar if self._terminal else _Lines)(self._tally, self._n_workers)


def _is_a_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; functions of the user's may have replaced or closed it."""
    try:
        return stream is not None and bool(stream.isatty())
    except (ValueError, AttributeError):
        return False


class _Tally:
    """What is done of a round, and how fast it goes.

    Attributes:
        name, n_points: What is evaluated, and how much of it.
        n_done, n_failed: Finished evaluations, those found in a store included.
    """

    def __init__(self, name: str, n_points: int, now: float) -> None:
        self.name, self.n_points = name, n_points
        self.n_done = self.n_failed = 0
        self._n_computed = 0  # those in a store take no time
        self._times = deque([(now, 0)])

    def add(self, outcomes: Outcomes) -> None:
        """Count finished evaluations."""
        n = len(outcomes.numbers)
        self.n_done += n
        self.n_failed += len(outcomes.failures)
        if not outcomes.cached:
            self._n_computed += n
            self._times.append((perf_counter(), self._n_computed))

    def parts(self, n_workers: int) -> list[str]:
        """Time left, failures, speed and workers, as short texts; the most important one first."""
        now = perf_counter()
        times = self._times
        least = _WINDOW_EVALUATIONS * max(n_workers, 1)
        while len(times) > 2 and now - times[1][0] > _WINDOW_S and times[-1][1] - times[1][1] >= least:
            times.popleft()
        rate = (times[-1][1] - times[0][1]) / max(now - times[0][0], 1e-9)
        parts = [f"{duration((self.n_points - self.n_done) / rate)} left"] if rate else []
        if self.n_failed:
            parts.append(f"{self.n_failed:,} failed")
        if rate:
            parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"one in {duration(1 / rate)}")
        if n_workers > 1:
            parts.append(f"{n_workers:,} workers")
        return parts


class _Lines:
    """A line now and then."""

    def __init__(self, tally: _Tally, n_workers: Callable[[], int]) -> None:
        self._tally, self._n_workers = tally, n_workers
        self._last_line = -_LINE_EVERY_S
        self.update()

    def update(self) -> None:
        tally, now = self._tally, perf_counter()
        if now - self._last_line >= _LINE_EVERY_S or tally.n_done == tally.n_points:
            self._last_line = now
            done = f"{tally.name} {tally.n_done:,}/{tally.n_points:,}"
            print_remark("  ".join([done, *tally.parts(self._n_workers())]))

    def close(self) -> None:
        pass


class _Open(io.StringIO):
    """A stream that takes text also when the one behind it is closed: that must not end a thread, or the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream behind it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write the text if possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written if possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return _is_a_terminal(self._stream)

    def fileno(self) -> int:
        """Number of the file, by which the width of a terminal is found."""
        return self._stream.fileno()


class _Bar:
    """A progress bar, which is gone when it ends."""

    def __init__(self, tally: _Tally, n_workers: Callable[[], int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._tally, self._n_workers = tally, n_workers
        self._console = Console(file=_Open(sys.stderr), highlight=False, force_jupyter=False)
        self._bar = Progress(
            TextColumn("{task.fields[done]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            refresh_per_second=5,
            expand=True,
            transient=True,
            # The function of the user's may print, and replace these streams itself.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=tally.n_points, done="", numbers="")
        self.update()
        self._bar.start()

    def update(self) -> None:
        tally = self._tally
        done = f"{tally.name} {tally.n_done:,}/{tally.n_points:,}"
        parts = tally.parts(self._n_workers())
        # On a narrow terminal the last parts are left out.
        while parts and len(done) + _NARROWEST_BAR + len("  ".join(parts)) > self._console.width:
            parts.pop()
        self._bar.update(self._task, completed=tally.n_done, done=done, numbers="  ".join(parts))

    def close(self) -> None:
        self._bar.stop()
