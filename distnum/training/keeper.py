"""Keeps a run while it is trained: rows, events, checkpoints, and at the end the model and the result."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.errors import LostError, TrainingError
from distnum.common.events import Event, log_event
from distnum.storage.checkpoints import State
from distnum.storage.run_folder import RunFolder
from distnum.training.job import Job
from distnum.training.kept_evaluations import KeptEvaluations
from distnum.training.loop import Step
from distnum.training.result import TrainResult
from distnum.training.subject import FunctionSubject
from distnum.training.unfinished import UnfinishedStep

__all__ = ["Keeper"]

log = logging.getLogger("distnum")


class Keeper:
    """Collects the rows and events of a training, and writes them and the state to the run's folder, if it has one.

    A thread writes each checkpoint while the training continues, which waits for it only when the next
    one is due; an error is then raised as ``TrainingError``. With ``on_write_error = "continue"`` errors
    are logged as warnings, and writing is tried again.

    Args:
        run: Folder of the run, or None.
        job: Job that is trained.

    Attributes:
        rows: Rows of ``metrics.jsonl``.
        events: Rows of ``events.jsonl`` that this process has recorded.
        slices: Keeps finished slices of long steps; None without a folder.
    """

    def __init__(self, run: RunFolder | None, job: Job) -> None:
        self._run = run
        self._job = job
        self._identity = job.identity() if run is not None else {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="distnum-checkpoints")
        self._writing: Future[Any] | None = None
        self._writing_step = self._saved_step = -1
        self._state = job.initial
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.slices: UnfinishedStep | None = None
        self.evaluations: KeptEvaluations | None = None
        if run is not None and isinstance(job.subject, FunctionSubject):
            self.evaluations = KeptEvaluations(run.slices_folder, self._slices_written)
        elif run is not None:
            self.slices = UnfinishedStep(
                run.slices_folder, job.objective, self._identity, self._slices_failed, self._slices_written
            )

    # --- the course of a training -------------------------------------------------

    def begin(self, state: State, resumed: bool, new_config: Mapping[str, Any] | None = None) -> None:
        """Prepare the run's files to continue from a state; before this nothing in the folder is changed."""
        self._state = state
        if self._run is not None and resumed:
            self.rows.extend(self._run.rows.continue_from(state.step))
            if new_config is not None:
                self._run.rewrite_config(new_config)

    @contextlib.contextmanager
    def keeping(self, state: State, resumed: bool, new_config: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Keep a training that starts from a state; at its end, also after an exception, save the state reached."""
        self.begin(state, resumed, new_config)
        if resumed:
            self.note(Event("resumed", f"continued after step {state.step:,}.", state.step))
        try:
            yield
            self._save(self._state, now=True)
            self._close()
        except BaseException as ended:
            try:
                saved = self._state.step <= state.step or self._save(self._state, now=True)
                # Without a step the run is removed.
                if isinstance(ended, LostError) and self._run is not None and saved and self._state.step > 0:
                    # Now, as the end of a Ray session without its servers takes seconds.
                    text = f"{ended} The run is saved; continue with: distnum resume {shlex.quote(self._run.name)}"
                    self.event(Event("lost", text, self._state.step))
                self._close()
            except TrainingError as error:
                if str(error) != str(ended):  # else the caller reports it
                    log.warning(str(error))
            raise
        for unfinished in (self.slices, self.evaluations):
            if unfinished is not None and self._state.step >= self._job.config.steps:
                unfinished.clear()

    def record(self, step: Step) -> dict[str, Any]:
        """Keep a step: its row, with an evaluation if that is due, and a checkpoint if that is due; return the row."""
        config, self._state = self._job.config, step.state
        completed = step.step >= config.steps
        row = step.row() | ({} if np.isfinite(step.loss) else {"skipped": True})
        if completed or step.step % config.evaluate_every == 0:
            row |= self._test_row()
        if self.rows and self.rows[-1]["step"] >= step.step:
            del self.rows[step.step - self.rows[-1]["step"] - 1 :]
            self._write(lambda run: run.rows.rewrite(self.rows), step.step)
        self.rows.append(row)
        self._write(lambda run: run.rows.append(row), step.step)
        if step.step % config.checkpoint_every == 0 and not completed:
            self._save(step.state)
        return row

    def _test_row(self) -> dict[str, float]:
        test = self._job.subject.evaluate(self._state.params)
        if test is None:
            return {}
        row = {"test_loss": test.loss}
        return row if test.accuracy is None else row | {"test_accuracy": test.accuracy}

    def keep_result(self, result: TrainResult) -> bool:
        """Write the model and the result; return whether they are written."""
        header = self._job.subject.header() | {"params_sha256": result.params_sha256}
        step = self._state.step
        written = self._write(lambda run: run.write_model(result.named_params, header), step)
        return written and self._write(lambda run: run.write_result(result.to_dict()), step)

    # --- events -------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Log an event and keep it."""
        log_event(event)
        self.note(event)

    def note(self, event: Event) -> None:
        """Keep an event without logging it."""
        row = event.row()
        self.events.append(row)
        if self._run is not None and self._run.path.exists():
            try:
                self._run.append_event(row)
            except TrainingError as error:
                log.warning(str(error))  # the event was logged; a training does not end for a missing row

    # --- writing ------------------------------------------------------------------

    def _write(self, write: Any, step: int) -> bool:
        """Call ``write`` with the run's folder, if there is one; return whether that succeeded."""
        if self._run is not None:
            try:
                write(self._run)
            except TrainingError as error:
                self._failed(error, step)
                return False
        return True

    def _save(self, state: State, now: bool = False) -> bool:
        """Write a checkpoint; with ``now`` it is on the disk when this returns. Return whether there was no error."""
        return self._write(lambda run: self._start_saving(run, state, now), state.step)

    def _start_saving(self, run: RunFolder, state: State, now: bool) -> None:
        self._finish_saving()
        if state.step == self._saved_step:
            return
        config = self._job.config
        run.rows.write()
        self._writing_step = state.step
        self._writing = self._thread.submit(
            run.save_checkpoint, state, self._identity, config.keep_checkpoints, config.checkpoint_every
        )
        if now:
            self._finish_saving()

    def _finish_saving(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._saved_step = self._writing_step

    def _failed(self, error: TrainingError, step: int) -> None:
        if self._job.config.on_write_error == "stop":
            raise error
        log.warning(str(error))
        self.note(Event("not_written", str(error), step))

    def _slices_failed(self, path: Path, error: OSError) -> None:
        log.warning(f"{path} cannot be written: {error.strerror or error}. The step goes on.")

    def _slices_written(self) -> None:
        """Mirror the slices, after the checkpoint that is being written."""
        self._thread.submit(self._publish_slices)

    def _publish_slices(self) -> None:
        assert self._run is not None
        try:
            self._run.publish()
        except TrainingError as error:
            log.warning("%s The step goes on.", error)

    def _close(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            TrainingError: It cannot be written, and ``on_write_error`` is ``"stop"``.
        """
        try:
            self._finish_saving()
        except TrainingError as error:
            self._failed(error, 0)
        finally:
            self._thread.shutdown()
