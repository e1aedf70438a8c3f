"""What a training shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any, Protocol

__all__ = ["Progress", "duration", "open_progress", "tell"]

# Where there is no terminal: a line after so many seconds, and at every evaluation.
_LINE_EVERY_S = 10.0
_NARROWEST_BAR = 8


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.0134), duration(42.2), duration(4000)
    ('13 ms', '42 s', '1 h 7 min')
    """
    if seconds < 0.95:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours / 24:.0f} days"


def tell(text: str) -> None:
    """Print a line on the error stream."""
    print(text, file=sys.stderr, flush=True)


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
        tell(text)

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
