"""The training loop: a generator that yields one record for each optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import DeadlineError, NotFiniteError, TrainingError
from distnum.common.events import Event, OnEvent, log_event
from distnum.common.machine import single_threaded_blas
from distnum.storage.checkpoints import State, frozen
from distnum.training.config import Config
from distnum.training.job import Job
from distnum.training.optimizers import Schedule, clip
from distnum.workers.pool import Gathered, KeptSlices, Pool, Timings

__all__ = ["Step", "run_steps"]

# Limits: steps skipped in a row, and the smallest factor of the learning rate.
_MOST_SKIPPED = 50
_LEAST_RATE_FACTOR = 1e-3


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        step: Number of the step, counted from 1.
        loss: Loss of the step's batch, before the update.
        learning_rate: Learning rate of this step.
        grad_norm: Euclidean norm of the gradient, before clipping.
        loss_evaluations: Number of losses evaluated for the gradient.
        compute_s: Seconds that the busiest worker computes; for a function, the mean of the workers.
        dispatch_gather_s: Seconds of planning, sending and gathering in addition to that.
        update_s: Seconds of checking and applying the gradient.
        state: State after the update.
        timings: Where the time of the gradient went.
        n_unsettled: For a function, the number of partial derivatives that are not settled; see ``differentiate``.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    loss_evaluations: int
    compute_s: float
    dispatch_gather_s: float
    update_s: float
    state: State = field(repr=False)
    timings: Timings = field(repr=False)
    n_unsettled: int | None = None

    @property
    def params(self) -> Array:
        """Parameters after the update, flat and read-only."""
        return self.state.params

    def row(self) -> dict[str, Any]:
        """Row of ``metrics.jsonl``."""
        row = {name: value for name, value in vars(self).items() if name not in ("state", "timings")}
        if self.n_unsettled is None:
            del row["n_unsettled"]
        return row


def run_steps(
    job: Job,
    pool: Pool,
    state: State,
    safe: State | None = None,
    kept: KeptSlices | None = None,
    on_event: OnEvent = log_event,
) -> Iterator[Step]:
    """Run the steps of a job, starting from a state.

    With ``on_nonfinite = "rollback"``, step numbers go back after a loss or gradient that is not finite.

    Args:
        job, pool: What is computed, and where.
        state: State to begin with.
        safe: State to roll back to until the next checkpoint; by default ``state``.
        kept: Keeps finished slices of long steps.
        on_event: Called with an event for each step that is not finite.

    Yields:
        A record of each step; it holds the state after the step. None follows once the deadline is over.

    Raises:
        TrainingError: A loss or gradient is not finite, or the workers are lost.
    """
    config, optimizer = job.config, job.optimizer
    schedule = Schedule(
        config.schedule, config.learning_rate, config.steps, config.schedule_every, config.schedule_factor
    )
    safe = state if safe is None else safe
    n_skipped = 0
    while state.step < config.steps:
        number = state.step + 1
        learning_rate = schedule.at(number) * state.rate_factor
        started = perf_counter()
        try:
            with single_threaded_blas():
                gathered = _computed(job, pool, state, number, learning_rate, kept)
                gathered_at = perf_counter()
                _check_finite(job, number, learning_rate, gathered)
                grad, grad_norm = clip(gathered.answers, config.clip_norm)
                with np.errstate(over="ignore", invalid="ignore"):
                    params, optimizer_state = optimizer.update(
                        grad, state.optimizer_state, state.params, learning_rate, number
                    )
                if gathered.failed is not None:
                    params[gathered.failed] = state.params[gathered.failed]
                if job.domain is not None:
                    params = job.domain.project(params, state.params)
        except DeadlineError as error:
            on_event(Event("deadline", f"{error} The training stops after step {state.step:,}.", number))
            return
        except NotFiniteError as error:
            if config.on_nonfinite == "stop":
                raise
            if config.on_nonfinite == "rollback":
                state = safe = _rolled_back(safe, state, number, error, on_event)
                continue
            n_skipped += 1
            if n_skipped == _MOST_SKIPPED:
                raise TrainingError(f"{error} {n_skipped} steps in a row have been skipped.") from None
            on_event(Event("step_skipped", f"{error} The step is skipped.", number))
            loss, grad_norm, gathered_at = float("nan"), float("nan"), perf_counter()
            gathered = Gathered(state.params, loss, None, [], Timings())
            state = State(number, state.params, state.optimizer_state, state.rate_factor)
        else:
            n_skipped = 0
            loss = gathered.value
            state = State(number, frozen(params), optimizer_state, state.rate_factor)
        if number % config.checkpoint_every == 0:
            safe = state
        timings, n_evaluations = gathered.timings, gathered.n_evaluations
        yield Step(
            step=number,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            loss_evaluations=job.n_evaluations if n_evaluations is None else n_evaluations,
            compute_s=timings.compute_s,
            dispatch_gather_s=max(0.0, gathered_at - started - timings.compute_s),
            update_s=perf_counter() - gathered_at,
            state=state,
            timings=timings,
            n_unsettled=gathered.n_unsettled,
        )


def _computed(
    job: Job, pool: Pool, state: State, number: int, learning_rate: float, kept: KeptSlices | None
) -> Gathered:
    """The gradient of a step; an error of the function that concerns its values says the step, and a remedy."""
    try:
        return pool.compute(number, state.params, kept)
    except NotFiniteError as error:
        # An exception of the function, which is its cause, says more than a remedy.
        remedy = "" if error.__cause__ is not None else f" {_remedy(job.config, number, learning_rate)}"
        raise NotFiniteError(f"{str(error).rstrip('.')} (step {number:,}).{remedy}") from None


def _rolled_back(safe: State, state: State, number: int, error: NotFiniteError, on_event: OnEvent) -> State:
    """The last checkpoint's state, with half the learning rate."""
    factor = state.rate_factor / 2
    if factor < _LEAST_RATE_FACTOR:
        raise TrainingError(
            f"{error} The learning rate has already been reduced to {state.rate_factor:g} times its value."
        ) from None
    on_event(
        Event(
            "rolled_back",
            f"{error} Going back to step {safe.step}, with {factor:g} times the learning rate.",
            number,
            {"to_step": safe.step, "rate_factor": factor},
        )
    )
    return State(safe.step, safe.params, safe.optimizer_state, factor)


def _remedy(config: Config, number: int, learning_rate: float) -> str:
    if number > 1:
        return f"Try a smaller learning rate than {learning_rate:g}, or clip_norm."
    # No update has been made yet.
    std = f", smaller weights to begin with (init_std is {config.init_std:g})" if config.init_std else ""
    return f"Try a smaller h{std}, or scale the data to about 1."


def _check_finite(job: Job, number: int, learning_rate: float, gathered: Gathered) -> None:
    config, loss, grad = job.config, gathered.value, gathered.answers
    remedy = _remedy(config, number, learning_rate)
    if not np.isfinite(loss):
        raise NotFiniteError(f"The loss is {loss} in step {number}. {remedy}")
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(grad, grad)  # finite only if all are, and fast
    if not np.isfinite(square) and not np.isfinite(grad).all():
        index = int(np.flatnonzero(~np.isfinite(grad))[0])
        raise NotFiniteError(
            f"The partial derivative of parameter {job.objective.param_name(index)} (index {index}) is {grad[index]} "
            f"in step {number}, with h = {config.h}. {remedy}"
        )
