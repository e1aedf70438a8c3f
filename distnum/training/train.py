"""Training for users: ``steps`` yields the loop's records, ``train`` runs it to its end and returns a result."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

from distnum.common.errors import InputError
from distnum.common.last_words import last_words
from distnum.differentiation.black_box import LossFunction
from distnum.evaluation.forms import Params
from distnum.storage.checkpoints import State, params_sha256
from distnum.storage.run_folder import RunFolder
from distnum.training.config import Config
from distnum.training.display import Display
from distnum.training.job import Job
from distnum.training.keeper import Keeper
from distnum.training.loop import Step, run_steps
from distnum.training.placement import estimate_gradient_s, estimate_step_s, open_pool
from distnum.training.prepare import prepare
from distnum.training.result import TrainResult
from distnum.training.resume import planned_state, resumed_job
from distnum.workers.pool import Pool

__all__ = ["steps", "train"]

_ENDED = "distnum: the training was ended by the system, by Ray or by a signal. Continue with: distnum resume "

OnStep = Callable[[Step, dict[str, Any]], "bool | None"]


def steps(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    data: Any = None,
    config: Config | None = None,
    **options: Any,
) -> Iterator[Step]:
    """Train, and yield a record of each step.

    The arguments are those of ``train``. Nothing is written to the disk; the workers end with the
    generator.

    >>> for step in steps(steps=2, workers=0):
    ...     print(step.step, round(step.loss, 2))
    1 2.44
    2 2.27
    """
    job = prepare(loss, params, data, config, options)
    with open_pool(job) as pool:
        yield from run_steps(job, pool, job.initial)


def train(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    progress: bool = False,
    on_prepared: Callable[[Job, int], None] | None = None,
    on_start: Callable[[Pool, float], None] | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> TrainResult:
    """Train a network, or any Python function, by numerical gradients.

    Args:
        loss: A function ``loss(params, batch) -> float`` to minimise, or the name of a network's
            loss. Without a function a network is trained. What a function prints on workers goes to files
            in the folder of the Ray session, of which the last 10 to 20 MB are kept until the session ends.
        params: Initial parameters of a function: a number, an array, or nested dicts, lists and
            tuples of them; float32, float64 or whole numbers.
        data: For a network a name or path as in ``distnum train --data``, a ``Dataset``, or
            ``(x_train, y_train, x_test, y_test)``. For a function an array or a tuple of arrays
            of one length (a batch is ``batch_size`` random rows of each), a ``Dataset`` (a batch
            is ``(x, y)``), a function from the step, counted from 1, to its batch, or None (the
            batch is None).
        out: Folder or URI (``s3://bucket/run``) to keep the run in; None writes nothing. A relative folder
            is one of the working directory at the time of the call.
        resume: Continue the run in ``out`` from its newest checkpoint. If the run used a cluster or data at a
            URI, give ``address`` or ``data`` again, as files do not decide what is connected to. Give the options of
            a function's derivative again, too.
        config: Configuration to begin with instead of the defaults.
        progress: Show on the error stream what ``distnum train`` shows.
        on_prepared: Called before the workers start, with the job and the number of steps done before.
        on_start: Called before the first step, with the pool and the estimated seconds of a step.
        on_step: Called with each step's record and its row; if it returns True, training
            stops there as if interrupted.
        **options: Fields of ``Config``: ``steps=200, hidden=(256, 256), workers=2``, ... For a function also the
            options of ``differentiate`` but ``f0`` and ``sparsity``: every step is a differentiation at its parameters
            and its batch, judged like any other. ``bounds`` are kept by projection after each update, ``indices`` are
            the parameters that are trained. Where evaluations fail and ``on_error`` is not ``"raise"``, a parameter
            keeps its value in that step. ``h`` is by default chosen for each parameter, ``workers="auto"`` is one on
            each CPU. ``deadline`` are the seconds after which the training stops, as if by ``on_step``.

    Returns:
        The result, also if ``on_step`` stopped the training (``completed`` is then False).

    Raises:
        InputError: An argument cannot be used.
        TrainingError: The loss or the gradient is not finite, or the workers are lost.
        KeyboardInterrupt: The training was interrupted; the run has been saved in ``out``.

    >>> result = train(hidden=20, steps=100, workers=0)
    >>> result.test_accuracy > 0.7
    True
    >>> import numpy as np
    >>> train(lambda w, batch: float(np.sum((w - 3) ** 2)), np.zeros(2), steps=100, workers=0).params.round(3)
    array([3., 3.])
    """
    began = perf_counter()
    if resume and out is None:
        raise InputError("resume is True, but out is not given; it must be the folder of the run.")
    with contextlib.ExitStack() as stack:
        if progress:
            display = stack.enter_context(contextlib.closing(Display(out, quiet=False)))
            on_prepared = _both(display.prepared, on_prepared)
            on_start = _both(display.started, on_start)
            on_step = _both(display.stepped, on_step)
        run = RunFolder.open(out) if resume and out is not None else None
        try:
            new_config = None
            if run is not None:
                job, state, new_config = resumed_job(run, loss, params, data, config, options)
            else:
                job = prepare(loss, params, data, config, options)
                state = job.initial
                if out is not None:
                    run = RunFolder.create(out, job.folder_config())
            if on_prepared is not None:
                on_prepared(job, state.step)
            if run is not None and job.config.workers != 0:
                stack.enter_context(last_words(_ENDED + shlex.quote(run.name)))
            return _train(job, run, state, resume, new_config, began, on_start, on_step)
        except Exception:
            if run is not None:
                run.discard()  # unless a step has been done
            raise
        finally:
            if run is not None:
                run.close()


def _both(first: Callable[..., Any], second: Callable[..., Any] | None) -> Callable[..., Any]:
    """A callback that calls one or two others, and returns what the last one returns."""

    def call(*arguments: Any) -> Any:
        returned = first(*arguments)
        return returned if second is None else second(*arguments)

    return call


def _train(
    job: Job,
    run: RunFolder | None,
    state: State,
    resumed: bool,
    new_config: Mapping[str, Any] | None,
    began: float,
    on_start: Callable[[Pool, float], None] | None,
    on_step: OnStep | None,
) -> TrainResult:
    config, subject = job.config, job.subject
    keeper = Keeper(run, job)
    start_s = 0.0
    if state.step >= config.steps:
        keeper.begin(state, resumed, new_config)
    else:
        gradient_s = cache(partial(estimate_gradient_s, job)) if on_start is not None else None
        with open_pool(job, gradient_s, keeper.event, keeper.evaluations) as pool:
            if on_start is not None and gradient_s is not None:
                on_start(pool, estimate_step_s(job, pool, state, gradient_s) + _keeping_s(job, run, state))
            start_s = perf_counter() - began
            # The state is saved before the workers end, which takes seconds.
            with keeper.keeping(state, resumed, new_config):
                for step in run_steps(job, pool, state, planned_state(job, run, state), keeper.slices, keeper.event):
                    state = step.state
                    row = keeper.record(step)
                    if on_step is not None and on_step(step, row) and state.step < config.steps:
                        break
    completed = state.step >= config.steps
    steps_s = sum(row["compute_s"] + row["dispatch_gather_s"] + row["update_s"] for row in keeper.rows)
    result = TrainResult(
        completed=completed,
        params=subject.restored(state.params),
        named_params=subject.named(state.params),
        metrics=keeper.rows,
        test=subject.evaluate(state.params) if completed else None,
        subject=subject,
        params_sha256=params_sha256(state.params),
        seconds={"start": start_s, "steps": steps_s, "total": perf_counter() - began},
        folder=run.location if run is not None else None,
        config=config,
        events=keeper.events,
    )
    return replace(result, kept=keeper.keep_result(result)) if completed else result


def _keeping_s(job: Job, run: RunFolder | None, state: State) -> float:
    """Seconds that evaluations and checkpoints take, per step."""
    started = perf_counter()
    job.subject.evaluate(state.params)
    seconds = (perf_counter() - started) / job.config.evaluate_every
    if run is None:
        return seconds
    return seconds + run.checkpoints.seconds_to_save(state, job.identity()) / job.config.checkpoint_every
