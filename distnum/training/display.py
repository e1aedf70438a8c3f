"""What a training shows while it runs: a bar on a terminal, plain lines elsewhere; and how a signal ends it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from distnum.common.signals import handled_signals
from distnum.common.text import duration, print_remark, printable

if TYPE_CHECKING:
    from distnum.training.job import Job
    from distnum.training.loop import Step
    from distnum.workers.pool import Pool

__all__ = ["Display"]

# Without a terminal: a line after this many seconds, and at every evaluation.
_LINE_EVERY_S = 10.0
_NARROWEST_BAR = 8


class _ForwardRemarks(logging.Handler):
    """Forwards INFO log records to the display; warnings are printed by the logging module."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.addFilter(lambda record: record.levelno == logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


class Display:
    """Shows a training, and stops it after the current step when a signal asks for it.

    ``train`` calls its methods ``prepared``, ``started`` and ``stepped``.

    Args:
        out: Folder of the run, or None.
        quiet: Whether to show nothing.
    """

    def __init__(self, out: str | Path | None, quiet: bool) -> None:
        self._out = out if out is not None else "the run"
        self._quiet = quiet
        self._interrupted = False
        self._in_steps = False
        self._progress: _Bar | _Lines | None = None
        self._job: Job | None = None
        self._n_done = 0
        self._n_signals = 0
        self._remarks = _ForwardRemarks(self._show)

    def _show(self, text: str) -> None:
        if not self._quiet:
            (print_remark if self._progress is None else self._progress.show)(text)

    def prepared(self, job: Job, n_done: int) -> None:
        """Show what will be trained, and what a step costs."""
        self._job, self._n_done = job, n_done
        config, subject = job.config, job.subject
        for title, text in subject.describe(config):
            self._show(f"{title:<9} {text}")
        self._show(f"gradient  {subject.method(config)}: {job.n_evaluations:,} loss evaluations a step")
        if n_done:
            self._show(f"resuming  {self._out} after step {n_done:,} of {config.steps:,}")
        if config.workers != 0 and job.own_workers is None and n_done < config.steps:
            address = config.address or os.environ.get("RAY_ADDRESS")
            self._show(f"workers   {f'connecting to Ray at {address}' if address else 'starting Ray'} ...")

    def started(self, pool: Pool, step_s: float) -> None:
        """Show where the training runs and how long it will take; from now on show the progress."""
        if self._interrupted:
            raise KeyboardInterrupt  # the signal came in Ray's code, which dropped the exception
        assert self._job is not None
        config = self._job.config
        threads = f"{pool.n_threads} thread{'s' if pool.n_threads > 1 else ''}"
        serial, own = config.workers == 0, self._job.own_workers
        where = f"this process, {threads}" if serial else f"{pool.n_workers} on Ray, {threads} each"
        self._show(f"workers   {where if own is None else f'{pool.n_workers} of {type(own).__name__}'}")
        n_steps = config.steps - self._n_done
        self._show(f"estimate  {n_steps:,} steps of about {duration(step_s)}: {duration(step_s * n_steps)}")
        self._in_steps = True
        if not self._quiet:
            n_workers = 0 if serial else pool.n_workers
            bar = _is_a_terminal(sys.stderr)
            rate = _Rate(config.steps, self._n_done)
            self._progress = _Bar(rate, n_workers) if bar else _Lines(rate)

    def stepped(self, step: Step, row: dict[str, Any]) -> bool:
        """Show a step; return whether to stop after it."""
        if self._progress is not None:
            self._progress.update(row)
        return self._interrupted

    def close(self) -> None:
        """End the display."""
        if isinstance(self._progress, _Bar):
            self._progress.close()
        self._progress = None

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle the signals that ask a process to end, and show INFO log records, inside this context."""
        log = logging.getLogger("distnum")
        level = log.level
        log.setLevel(logging.INFO)
        log.addHandler(self._remarks)
        try:
            with handled_signals(self._handle):
                yield
        finally:
            log.removeHandler(self._remarks)
            log.setLevel(level)

    def _handle(self, number: int, frame: Any) -> None:
        self._n_signals += 1
        self._interrupted = True
        if self._n_signals == 1:
            self._show(
                f"stopping{' after this step' if self._in_steps else ''}; press Ctrl-C again to stop immediately"
            )
        # Raise once only: a further signal would interrupt the shutdown of the workers.
        if self._n_signals == (2 if self._in_steps else 1):
            raise KeyboardInterrupt


def _is_a_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which a function of the user's may have closed, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


class _Rate:
    """Steps per second over the last seconds, and the time left at that rate."""

    def __init__(self, n_steps: int, n_done: int) -> None:
        self.n_steps, self.n_done = n_steps, n_done
        self._times = [(perf_counter(), n_done)]

    def update(self, step: int) -> tuple[str, str]:
        """The speed and the time left, as texts."""
        now = perf_counter()
        self._times.append((now, step))
        while len(self._times) > 2 and now - self._times[1][0] > 10:
            self._times.pop(0)
        before, first = self._times[0]
        rate = (step - first) / max(now - before, 1e-9)
        left_s = (self.n_steps - step) / rate if rate else float("inf")
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{duration(1 / max(rate, 1e-9))} a step"
        return speed, f"{duration(left_s)} left"


class _Lines:
    """A line now and then."""

    def __init__(self, rate: _Rate) -> None:
        self._rate = rate
        self._last_line = perf_counter()

    def update(self, row: dict[str, Any]) -> None:
        step, n_steps = row["step"], self._rate.n_steps
        speed, left = self._rate.update(step)
        if "test_loss" not in row and perf_counter() - self._last_line < _LINE_EVERY_S and step < n_steps:
            return
        self._last_line = perf_counter()
        accuracy = f"  test accuracy {row['test_accuracy']:.4f}" if "test_accuracy" in row else ""
        self.show(
            f"step {step:,}/{n_steps:,}  loss {row['loss']:.4f}{accuracy}  {speed}"
            + (f"  {left}" if step < n_steps else "")
        )

    def show(self, text: str) -> None:
        print_remark(text)


class _Bar:
    """A progress bar."""

    def __init__(self, rate: _Rate, n_workers: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._rate = rate
        self._accuracy = ""
        self._workers = "no workers" if n_workers == 0 else "1 worker" if n_workers == 1 else f"{n_workers} workers"
        # Not stderr=True: functions of the user may replace sys.stderr, and the bar stays where it began.
        self._console = Console(file=sys.stderr, highlight=False)
        self._n_fixed = len(f"step {rate.n_steps}/{rate.n_steps} ") + _NARROWEST_BAR
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            refresh_per_second=5,
            expand=True,
        )
        self._task = self._bar.add_task("", total=rate.n_steps, completed=rate.n_done, numbers="")
        self._bar.start()

    def update(self, row: dict[str, Any]) -> None:
        speed, left = self._rate.update(row["step"])
        if "test_accuracy" in row:
            self._accuracy = f"accuracy {row['test_accuracy']:.4f}"
        parts = [f"loss {row['loss']:.4f}", left, self._accuracy, speed, self._workers]
        # On a narrow terminal the last parts are left out.
        while len(parts) > 1 and self._n_fixed + len("  ".join(parts)) > self._console.width:
            parts.pop()
        self._bar.update(self._task, completed=row["step"], numbers="  ".join(part for part in parts if part))

    def show(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the stream was closed
            self._console.print(printable(text, keep="\n"), markup=False)

    def close(self) -> None:
        from rich.file_proxy import FileProxy

        out, err = sys.stdout, sys.stderr
        with suppress(OSError, ValueError):
            self._bar.stop()
        # It puts back the streams of its start, also if a function of the user has replaced them since.
        sys.stdout = sys.stdout if isinstance(out, FileProxy) else out
        sys.stderr = sys.stderr if isinstance(err, FileProxy) else err
