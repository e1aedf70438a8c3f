"""The training loop: one SGD step after the other, as a generator of records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import NotFiniteError, TrainingError
from distnum.common.events import Event, OnEvent, log_event
from distnum.common.machine import single_threaded_blas
from distnum.storage.checkpoints import State, frozen
from distnum.training.job import Job
from distnum.training.optimizers import Schedule, clip
from distnum.workers.planner import Planner
from distnum.workers.pool import Gathered, KeptSlices, Pool

__all__ = ["Step", "run_steps"]

# So many steps in a row may be skipped, and so small may the learning rate become.
_MOST_SKIPPED = 50
_LEAST_RATE_FACTOR = 1e-3


@dataclass(frozen=True)
class Step:
    """One SGD iteration.

    Attributes:
        step: its number, counted from 1.
        loss: of the step's batch, before the update.
        learning_rate: of this step.
        grad_norm: Euclidean norm of the gradient, before clipping.
        loss_evaluations: losses that the gradient took.
        compute_s: seconds of the slowest worker.
        dispatch_gather_s: seconds of planning, sending and gathering beside that.
        update_s: seconds of checking and applying the gradient.
        state: after the update.
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

    @property
    def params(self) -> Array:
        """The parameters after the update, flat and read-only."""
        return self.state.params

    def row(self) -> dict[str, Any]:
        """As it stands in ``metrics.jsonl``."""
        return {name: value for name, value in vars(self).items() if name != "state"}


def run_steps(
    job: Job,
    pool: Pool,
    state: State,
    safe: State | None = None,
    kept: KeptSlices | None = None,
    on_event: OnEvent = log_event,
) -> Iterator[Step]:
    """The steps of a job from a state on; the state after each is in its record.

    After a step that was not finite the numbers may go back, with ``on_nonfinite = "rollback"``.

    Args:
        job, pool: what is computed, and where.
        state: where to begin.
        safe: the last checkpoint before it, where steps are counted as planned; by default
            ``state`` itself.
        kept: keeps what is finished of a long step.
        on_event: called with each event: steps that are not finite.

    Raises:
        TrainingError: a loss or a gradient is not finite, or the workers are lost.
    """
    config, objective = job.config, job.objective
    optimizer = job.optimizer
    schedule = Schedule(
        config.schedule, config.learning_rate, config.steps, config.schedule_every, config.schedule_factor
    )
    planner = Planner(job, pool)
    planner.plan(state.step + 1)
    safe = state if safe is None else safe
    n_skipped = 0
    while state.step < config.steps:
        number = state.step + 1
        learning_rate = schedule.at(number) * state.rate_factor
        started = perf_counter()
        # The next step is planned while the workers compute, from what the one before has
        # cost: who computes what need not be perfect, and decides no bits.
        plan_next = partial(planner.plan, min(number + 1, config.steps))
        try:
            with single_threaded_blas():
                found = pool.gradient(number, state.params, plan_next, kept)
                planner.learn(found)
                gathered = perf_counter()
                _check_finite(job, number, learning_rate, found)
                grad, grad_norm = clip(found.grad, config.clip_norm)
                with np.errstate(over="ignore", invalid="ignore"):
                    params, optimizer_state = optimizer.update(
                        grad, state.optimizer_state, state.params, learning_rate, number
                    )
        except NotFiniteError as error:
            if config.on_nonfinite == "stop":
                raise
            planner.plan(number)  # in case it was not yet
            if config.on_nonfinite == "rollback":
                state = safe = _rolled_back(safe, state, number, error, on_event)
                planner.plan(state.step + 1)
                continue
            n_skipped += 1
            if n_skipped == _MOST_SKIPPED:
                raise TrainingError(f"{error} {n_skipped} steps in a row have been skipped.") from None
            on_event(Event("step_skipped", f"{error} The step is skipped.", number))
            grad_norm, loss, compute_s, gathered = float("nan"), float("nan"), 0.0, perf_counter()
            state = State(number, state.params, state.optimizer_state, state.rate_factor)
            planner.plan(min(number + 1, config.steps))
        else:
            n_skipped = 0
            loss, compute_s = found.loss, found.compute_s
            state = State(number, frozen(params), optimizer_state, state.rate_factor)
        if number % config.checkpoint_every == 0:
            safe = state
        yield Step(
            step=number,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            loss_evaluations=objective.n_evaluations,
            compute_s=compute_s,
            dispatch_gather_s=max(0.0, gathered - started - compute_s),
            update_s=perf_counter() - gathered,
            state=state,
        )


def _rolled_back(safe: State, state: State, number: int, error: NotFiniteError, on_event: OnEvent) -> State:
    """The last checkpoint's state, with half the learning rate."""
    factor = state.rate_factor / 2
    if factor < _LEAST_RATE_FACTOR:
        raise TrainingError(f"{error} It has been tried with {state.rate_factor:g} times the learning rate.") from None
    on_event(
        Event(
            "rolled_back",
            f"{error} Going back to step {safe.step}, with {factor:g} times the learning rate.",
            number,
            {"to_step": safe.step, "rate_factor": factor},
        )
    )
    return State(safe.step, safe.params, safe.optimizer_state, factor)


def _check_finite(job: Job, number: int, learning_rate: float, found: Gathered) -> None:
    config, loss, grad = job.config, found.loss, found.grad
    if number > 1:
        remedy = f"Try a smaller learning rate than {learning_rate:g}, or clip_norm."
    else:  # no update has been made yet
        std = f", smaller weights to begin with (init_std is {config.init_std:g})" if config.init_std else ""
        remedy = f"Try a smaller h{std}, or data of size one."
    if not np.isfinite(loss):
        raise NotFiniteError(f"The loss is {loss} in step {number}. {remedy}")
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(grad, grad)  # finite only if all are, and quickly found
    if not np.isfinite(square) and not np.isfinite(grad).all():
        index = int(np.flatnonzero(~np.isfinite(grad))[0])
        raise NotFiniteError(
            f"The partial derivative of parameter {job.objective.param_name(index)} (index {index}) is {grad[index]} "
            f"in step {number}, with h = {config.h}. {remedy}"
        )
