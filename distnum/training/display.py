"""What the command line says of a training while it runs, and how a signal ends it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from distnum.common.signals import handled_signals
from distnum.common.text import duration, print_remark

if TYPE_CHECKING:
    from distnum.training.job import Job
    from distnum.training.loop import Step
    from distnum.workers.pool import Pool

__all__ = ["Display", "Progress", "open_progress"]


class _ToWatch(logging.Handler):
    """Passes on what the library says of its work; warnings go their own way."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.addFilter(lambda record: record.levelno == logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class Display:
    """Shows a training, and ends it after the step under way when a signal asks for it.

    Its methods ``prepared``, ``started`` and ``stepped`` are what ``train`` calls.

    Args:
        out: the run's folder, if it has one.
        quiet: whether to say nothing.
    """

    def __init__(self, out: str | Path | None, quiet: bool) -> None:
        self._out = out if out is not None else "the run"
        self._quiet = quiet
        self._interrupted = False
        self._in_steps = False
        self._progress: Progress | None = None
        self._job: Job | None = None
        self._done = 0
        self._n_signals = 0
        self._remarks = _ToWatch(self._say)

    def _say(self, text: str) -> None:
        if not self._quiet:
            (print_remark if self._progress is None else self._progress.say)(text)

    def prepared(self, job: Job, done: int) -> None:
        """Say what the training will cost."""
        self._job, self._done = job, done
        config, network, dataset = job.config, job.network, job.dataset
        if network is None or dataset is None:
            self._say(f"function  of {job.objective.n_params:,} parameters, {config.dtype}")
            h, method = "chosen for each parameter" if config.h == "auto" else f"= {config.h:g}", "the whole function"
        else:
            h, method = f"= {config.step_size:g}", config.method
            what = f"{dataset.n_outputs} classes" if dataset.has_labels else f"{dataset.n_outputs} targets"
            self._say(
                f"network   {network}, {network.activation.name}, {config.loss}: {network.n_params:,} parameters, "
                f"{config.dtype}"
            )
            self._say(
                f"data      {dataset.name}: {len(dataset.x_train):,} to train, {len(dataset.x_test):,} to test, {what}"
            )
        self._say(
            f"gradient  {config.scheme} differences, h {h}, {method}: "
            f"{job.objective.n_evaluations:,} loss evaluations a step"
        )
        if done:
            self._say(f"resuming  {self._out} after step {done:,} of {config.steps:,}")
        if config.workers != 0 and done < config.steps:
            address = config.address or os.environ.get("RAY_ADDRESS")
            self._say(f"workers   {f'connecting to Ray at {address}' if address else 'starting Ray'} ...")

    def started(self, pool: Pool, step_s: float) -> None:
        """Say where it runs and how long it will take, and show the progress from now on."""
        if self._interrupted:
            raise KeyboardInterrupt  # it came while Ray's own code ran, which took it
        assert self._job is not None
        config = self._job.config
        threads = f"{pool.n_threads} thread{'s' if pool.n_threads > 1 else ''}"
        serial = config.workers == 0
        where = f"this process, {threads}" if serial else f"{pool.n_workers} on Ray, {threads} each"
        self._say(f"workers   {where}")
        n_steps = config.steps - self._done
        self._say(f"estimate  {n_steps:,} steps of about {duration(step_s)}: {duration(step_s * n_steps)}")
        self._in_steps = True
        if not self._quiet:
            self._progress = open_progress(config.steps, self._done, 0 if serial else pool.n_workers)

    def stepped(self, step: Step, row: dict[str, Any]) -> bool:
        """Show a step; returns whether to stop after it."""
        if self._progress is not None:
            self._progress.update(row)
        return self._interrupted

    def close(self) -> None:
        """End the display."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Handle the signals that ask a process to end, and show remarks, for a while."""
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
            self._say(f"stopping{' after this step' if self._in_steps else ''}; once more to leave at once")
        # The workers are ended then; a third signal would only disturb that.
        if self._n_signals == (2 if self._in_steps else 1):
            raise KeyboardInterrupt


# Where there is no terminal: a line after so many seconds, and at every evaluation.
_LINE_EVERY_S = 10.0
_NARROWEST_BAR = 8


class Progress(Protocol):
    """Shows how far a training is."""

    def update(self, row: dict[str, Any]) -> None:
        """A step was done; ``row`` is its row of metrics."""
        ...

    def say(self, text: str) -> None:
        """Show a line without disturbing the rest."""
        ...

    def close(self) -> None: ...


def open_progress(n_steps: int, done: int, n_workers: int) -> Progress:
    """A bar if the error stream is a terminal, else lines."""
    return _Bar(n_steps, done, n_workers) if sys.stderr.isatty() else _Lines(n_steps, done)


class _Rate:
    """Steps a second over the last few seconds, and the time left at that rate."""

    def __init__(self, n_steps: int, done: int) -> None:
        self._n_steps = n_steps
        self._times = [(perf_counter(), done)]

    def update(self, step: int) -> tuple[float, float]:
        now = perf_counter()
        self._times.append((now, step))
        while len(self._times) > 2 and now - self._times[1][0] > 10:
            self._times.pop(0)
        before, first = self._times[0]
        rate = (step - first) / max(now - before, 1e-9)
        return rate, (self._n_steps - step) / rate if rate else float("inf")


class _Lines:
    def __init__(self, n_steps: int, done: int) -> None:
        self._n_steps = n_steps
        self._rate = _Rate(n_steps, done)
        self._last_line = perf_counter()

    def update(self, row: dict[str, Any]) -> None:
        step = row["step"]
        rate, left = self._rate.update(step)
        if "test_loss" not in row and perf_counter() - self._last_line < _LINE_EVERY_S and step < self._n_steps:
            return
        self._last_line = perf_counter()
        accuracy = f"  test accuracy {row['test_accuracy']:.4f}" if "test_accuracy" in row else ""
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{duration(1 / max(rate, 1e-9))} a step"
        self.say(
            f"step {step:,}/{self._n_steps:,}  loss {row['loss']:.4f}{accuracy}  {speed}"
            + (f"  {duration(left)} left" if step < self._n_steps else "")
        )

    def say(self, text: str) -> None:
        print_remark(text)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, n_steps: int, done: int, n_workers: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._rate = _Rate(n_steps, done)
        self._accuracy = ""
        self._workers = "no workers" if n_workers == 0 else "1 worker" if n_workers == 1 else f"{n_workers} workers"
        self._console = Console(stderr=True, highlight=False)
        self._n_fixed = len(f"step {n_steps}/{n_steps} ") + _NARROWEST_BAR
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            refresh_per_second=5,
            expand=True,
        )
        self._task = self._bar.add_task("", total=n_steps, completed=done, numbers="")
        self._bar.start()

    def update(self, row: dict[str, Any]) -> None:
        rate, left = self._rate.update(row["step"])
        if "test_accuracy" in row:
            self._accuracy = f"accuracy {row['test_accuracy']:.4f}"
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{duration(1 / max(rate, 1e-9))} a step"
        parts = [f"loss {row['loss']:.4f}", f"{duration(left)} left", self._accuracy, speed, self._workers]
        # What a narrow terminal has no room for is left out, from the last.
        while len(parts) > 1 and self._n_fixed + len("  ".join(parts)) > self._console.width:
            parts.pop()
        self._bar.update(self._task, completed=row["step"], numbers="  ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        self._bar.stop()
