"""The worker's side of evaluations on Ray: an actor that holds functions and calls them."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.machine import keep_freed_memory
from distnum.evaluation.call import Caller
from distnum.evaluation.outcomes import Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.programs.folders import WorkFolders
from distnum.evaluation.programs.in_folder import InFolder
from distnum.evaluation.ray_workers.ends import Guard
from distnum.evaluation.ray_workers.map_job import mapped
from distnum.evaluation.ray_workers.messages import EvaluationTask, packed_outcomes, unpacked_task
from distnum.workers.ray_pool.reasons import record_crashes, sendable_errors
from distnum.workers.ray_pool.serving import ServingActor

__all__ = ["EvaluationWorker", "Setup"]


@dataclass(frozen=True)
class Setup:
    """What every worker is given once.

    Attributes:
        prepare: Called once when a worker starts; None to call nothing.
        workdir: Folders in which the function is called; None for the folder where the worker is.
        folder: Folder for sockets, in a session on the driver's own machine; None elsewhere.
    """

    prepare: Callable[[], object] | None = None
    workdir: WorkFolders | None = None
    folder: Path | None = None


class EvaluationWorker(ServingActor):
    """Evaluates functions in a process of its own, which leads a process group: its children end with it."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.folder)
        import psutil  # noqa: F401  # needed when an evaluation is ended, in the middle of anything

        with contextlib.suppress(AttributeError, OSError):
            os.setpgid(0, 0)
        keep_freed_memory()
        # Ray would raise SystemExit in the function, which cannot be told from one of its own.
        with contextlib.suppress(ValueError):  # this is not the main thread
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._setup = setup
        if self._crash_file is None:
            number, path = tempfile.mkstemp(prefix="distnum-", suffix=".crash", dir=_folder_of_logs())
            os.close(number)
            self._crash_file = record_crashes(Path(path))
        self._guard = Guard(self._crash_file)
        self._functions: dict[str, Any] = {}
        self._turn: int | None = None
        self._base: Array | None = None
        self._caller: Caller | None = None
        self._vectorized = False
        self._error: BaseException | None = None

    def _prepare(self) -> None:
        if self._setup.prepare is not None:
            self._setup.prepare()

    def take(self, name: str, function: bytes, kept: list[str]) -> str:
        """Take a function, and drop those that are not to be kept.

        Args:
            name: Name of the function in tasks.
            function: The pickled function, or ``FunctionCall``.
            kept: Names of functions to keep.

        Returns:
            Path of the file that tells how this process has ended.
        """
        import ray.cloudpickle

        with sendable_errors():
            self._functions = {other: self._functions[other] for other in kept if other in self._functions}
            self._functions[name] = ray.cloudpickle.loads(function)
        return "" if self._crash_file is None else self._crash_file.name

    def error(self) -> None:
        """Raise the exception of the last task.

        Raises:
            Exception: The function has raised it, or one that stands for it.
        """
        error, self._error = self._error, None
        with sendable_errors():
            if error is not None:
                raise error

    def _compute(self, message: bytes, argument: Any) -> bytes:
        task = unpacked_task(message, self._base)
        if task.points is None:
            with self._guard:
                return mapped(self._limited(self._functions[task.function], task.limits), task, argument, self._begin)
        if task.turn != self._turn:
            self._turn, self._base = task.turn, task.points.base
            call = self._functions[task.function]
            self._vectorized = call.vectorized
            function = self._limited(call.function, task.limits, call.vectorized)
            self._caller = Caller(replace(call, function=function, step=task.step))
        elif self._error is not None:  # it ends the call: nobody needs the points that were sent ahead
            return packed_outcomes(_nothing(), raised=False)
        assert self._caller is not None
        try:
            with self._guard:
                outcomes, error = self._evaluated(self._caller, task, task.points), self._caller.error
        except Exception as raised:  # the function has changed its argument
            self._error = raised
            return packed_outcomes(_nothing(), raised=True)
        self._error = error if task.limits.raises else None
        return packed_outcomes(outcomes.renumbered(task.numbers), self._error is not None)

    def _evaluated(self, caller: Caller, task: EvaluationTask, points: Points) -> Outcomes:
        """Outcomes of a first part of the points, numbered by their positions."""
        ends, n = perf_counter() + task.budget_s, len(task.numbers)
        if task.limits.timeout is None or self._vectorized:
            return caller.evaluate(points, np.arange(n), task.limits, ends)
        parts: list[Outcomes] = []
        for position in range(n):  # so that it is known at which point the time was over
            self._guard.number = int(task.numbers[position])
            parts.append(caller.evaluate(points, np.array([position]), task.limits))
            if perf_counter() > ends or (task.limits.raises and parts[-1].failures):
                break
        return _joined(parts)

    def _begin(self, number: int) -> None:
        self._guard.number = number

    def _limited(self, function: Callable[..., Any], limits: Limits, vectorized: bool = False) -> Callable[..., Any]:
        """A function with its working folder and its time limit."""
        if self._setup.workdir is not None:
            function = InFolder(function, self._setup.workdir)
        if limits.timeout is not None:
            function = self._guard.limited(function, limits.timeout, vectorized)
        return function


def _folder_of_logs() -> str | None:
    """Ray's folder for logs on this node; None if it cannot be found."""
    with contextlib.suppress(ImportError, AttributeError):  # a private part of Ray
        from ray._private import worker

        path = str(worker._global_node.get_logs_dir_path())
        return path if os.access(path, os.W_OK) else None
    return None


def _nothing() -> Outcomes:
    """Outcomes of no points."""
    return Outcomes(np.empty(0, np.int64), np.empty((0, 0)), None, np.empty(0), host=platform.node())


def _joined(parts: list[Outcomes]) -> Outcomes:
    """Several outcomes of one caller as one."""
    last = parts[-1]
    values = np.full((len(parts), last.values.shape[1]), np.nan, last.values.dtype)
    for number, part in enumerate(parts):
        if part.form is not None:  # failures before the first value have no form
            values[number] = part.values[0]
    numbers = np.concatenate([part.numbers for part in parts])
    seconds = np.concatenate([part.seconds for part in parts])
    failures = {number: failure for part in parts for number, failure in part.failures.items()}
    retried = {number: count for part in parts for number, count in part.retried.items()}
    return Outcomes(numbers, values, last.form, seconds, failures, last.host, retried=retried)
