"""Keeps a run while it is trained: rows, events and checkpoints, on a thread of its own where they take time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distnum.common.errors import TrainingError
from distnum.common.events import Event, log_event
from distnum.storage.checkpoints import State
from distnum.storage.run_folder import RunFolder
from distnum.training.job import Job
from distnum.training.unfinished import UnfinishedStep

__all__ = ["Keeper"]

log = logging.getLogger("distnum")


class Keeper:
    """Writes what is to be kept of a training; without a folder nothing is.

    A checkpoint is written while the training goes on, until the next one is due. What cannot
    be written is raised as a ``TrainingError``, at the latest by the next call, or with
    ``on_write_error = "continue"`` said as a warning, and tried again.

    Args:
        run: its folder, or None.
        job: that is trained.
    """

    def __init__(self, run: RunFolder | None, job: Job) -> None:
        self._run = run
        self._identity = job.identity() if run is not None else {}
        self._config = job.config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="distnum-checkpoints")
        self._writing: Future[Any] | None = None
        self._writing_step = self._saved_step = -1
        self.events: list[dict[str, Any]] = []
        self.slices = None
        if run is not None:
            self.slices = UnfinishedStep(
                run.slices_folder, job.objective, self._identity, self._slices_failed, self._slices_written
            )

    def event(self, event: Event) -> None:
        """Say what happened, and keep it."""
        log_event(event)
        self.note(event)

    def note(self, event: Event) -> None:
        """Keep what has been said already."""
        row = event.row()
        self.events.append(row)
        if self._run is not None and self._run.path.exists():
            try:
                self._run.append_event(row)
            except TrainingError as error:
                log.warning(str(error))  # it has been said, and a training does not end for want of a note

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep the row of a step."""
        if self._run is not None:
            try:
                self._run.append(row)
            except TrainingError as error:
                self._failed(error, int(row["step"]))

    def rolled_back(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Only these rows hold still."""
        if self._run is not None:
            try:
                self._run.rewrite_rows(rows)
            except TrainingError as error:
                self._failed(error, int(rows[-1]["step"]) if rows else 0)

    def save(self, state: State, now: bool = False) -> None:
        """Write a checkpoint; with ``now`` it is on the disk when this returns."""
        run, config = self._run, self._config
        if run is None:
            return
        try:
            self._finish_writing()
            if state.step == self._saved_step:
                return
            run.write_rows()
            self._writing_step = state.step
            self._writing = self._thread.submit(
                run.save_checkpoint, state, self._identity, config.keep_checkpoints, config.checkpoint_every
            )
            if now:
                self._finish_writing()
        except TrainingError as error:
            self._failed(error, state.step)

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._saved_step = self._writing_step

    def _failed(self, error: TrainingError, step: int) -> None:
        if self._config.on_write_error == "stop":
            raise error
        log.warning(str(error))
        self.note(Event("not_written", str(error), step))

    def _slices_failed(self, path: Path, error: OSError) -> None:
        log.warning(f"{path} cannot be written: {error.strerror or error}. The step goes on.")

    def _slices_written(self) -> None:
        """Put them to where the run is mirrored, after what is being put there."""
        self._thread.submit(self._publish_slices)

    def _publish_slices(self) -> None:
        assert self._run is not None
        try:
            self._run.publish()
        except TrainingError as error:
            log.warning("%s The step goes on.", error)

    def close(self) -> None:
        """Wait for what is being written.

        Raises:
            TrainingError: it cannot be, and that is not to be passed over.
        """
        try:
            self._finish_writing()
        except TrainingError as error:
            self._failed(error, 0)
        finally:
            self._thread.shutdown()
