"""What the command line says of a training while it runs, and how a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnum.progress import Progress, duration, open_progress, tell

if TYPE_CHECKING:
    from distnum.jobs import Job
    from distnum.loop import Step
    from distnum.pools import Pool

__all__ = ["Watch", "handled_signals"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def handled_signals(handle: Callable[[int, Any], Any] = signal.default_int_handler) -> Iterator[None]:
    """Handle the signals that ask a process to end, by default as ``KeyboardInterrupt``, for a while.

    One that is ignored (nohup) stays so.
    """
    taken = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


class _ToWatch(logging.Handler):
    """Passes on what the library says of its work; warnings go their own way."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.addFilter(lambda record: record.levelno == logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class Watch:
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
            (tell if self._progress is None else self._progress.say)(text)

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
