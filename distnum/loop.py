"""The training loop: one SGD step after the other, as a generator of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.blas import single_threaded_blas
from distnum.checkpoints import State, frozen
from distnum.errors import TrainingError
from distnum.jobs import Job
from distnum.optimizers import Schedule, clip
from distnum.plan import Shard, assemble, make_shards
from distnum.pools import GradSlice, Pool

__all__ = ["Step", "run_steps"]

Array = NDArray[np.floating]


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


def run_steps(job: Job, pool: Pool, state: State) -> Iterator[Step]:
    """The steps of a job from a state on; the state after each is in its record.

    Raises:
        TrainingError: a loss or a gradient is not finite, or the workers are lost.
    """
    config, objective = job.config, job.objective
    optimizer = job.optimizer
    schedule = Schedule(
        config.schedule, config.learning_rate, config.steps, config.schedule_every, config.schedule_factor
    )
    planner = _Planner(job, pool.n_workers)
    planner.plan(state.step + 1)
    for number in range(state.step + 1, config.steps + 1):
        started = perf_counter()
        shards = planner.shards
        # The next step is planned while the workers compute, from what the one before has
        # cost: who computes what need not be perfect, and decides no bits.
        plan_next = partial(planner.plan, min(number + 1, config.steps))
        with single_threaded_blas():
            slices = pool.grad_slices(number, state.params, shards, plan_next)
            grad = assemble(objective.tiles, shards, [one.values for one in slices], objective.order)
            planner.learn(shards, slices)
            gathered = perf_counter()

            loss = slices[0].loss
            assert loss is not None
            _check_finite(job, number, loss, grad)
            learning_rate = schedule.at(number)
            grad, grad_norm = clip(grad, config.clip_norm)
            with np.errstate(over="ignore", invalid="ignore"):
                params, optimizer_state = optimizer.update(
                    grad, state.optimizer_state, state.params, learning_rate, number
                )
            state = State(number, frozen(params), optimizer_state)
        compute_s = max(grad_slice.compute_s for grad_slice in slices)
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


class _Planner:
    """Decides which tiles each worker gets."""

    def __init__(self, job: Job, n_workers: int) -> None:
        self._job = job
        self._n_workers = n_workers
        self.shards: list[Shard] = []
        self._costs: NDArray[np.float64] | None = None
        self._rates: NDArray[np.float64] | None = None

    def learn(self, shards: Sequence[Shard], slices: Sequence[GradSlice]) -> None:
        """Take in what the tiles of a step have cost, and how many seconds that has meant in each group of tiles."""
        groups, costs = self._job.objective.groups, slices[0].costs
        if groups is None or costs is None or self._n_workers == 1:
            return
        n_groups = int(groups[-1]) + 1
        cost = sum(np.bincount(groups[shard], costs[shard], n_groups) for shard in shards)
        seconds = sum(one.group_s for one in slices if one.group_s is not None)
        known = np.asarray(cost) > 0
        rates = np.full(n_groups, np.sum(seconds) / max(np.sum(cost), 1e-300))  # of a group that had nothing to do
        np.divide(seconds, cost, out=rates, where=known)
        self._costs = costs
        # Halfway to what was measured: one step may have been disturbed.
        self._rates = rates if self._rates is None else (self._rates + rates) / 2

    def plan(self, number: int) -> None:
        """Cut the work of a step into shards of nearly equal cost."""
        objective = self._job.objective
        if self._n_workers == 1:
            self.shards = [np.arange(len(objective.tiles) - 1)]
        else:
            costs = objective.expected_costs(self._job.batch_at(number), self._costs)
            if self._rates is not None and objective.groups is not None:
                costs = costs * self._rates[objective.groups]
            self.shards = make_shards(costs, self._n_workers, objective.groups)


def _check_finite(job: Job, number: int, loss: float, grad: Array) -> None:
    config = job.config
    if number > 1:
        remedy = f"Try a smaller learning rate than {config.learning_rate:g}, or clip_norm."
    else:  # no update has been made yet
        std = f", smaller weights to begin with (init_std is {config.init_std:g})" if config.init_std else ""
        remedy = f"Try a smaller h{std}, or data of size one."
    if not np.isfinite(loss):
        raise TrainingError(f"The loss is {loss} in step {number}. {remedy}")
    if not np.isfinite(grad).all():
        index = int(np.flatnonzero(~np.isfinite(grad))[0])
        raise TrainingError(
            f"The partial derivative of parameter {job.objective.param_name(index)} (index {index}) is {grad[index]} "
            f"in step {number}, with h = {config.h}. {remedy}"
        )
