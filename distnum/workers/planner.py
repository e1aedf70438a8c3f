"""Plans a step: the expected cost of each tile, and the shard of each worker.

A plan affects only the time of a step, never its bits. So it may use estimates: from the batch,
from the costs of tiles in earlier steps, and from the seconds that a unit of cost has taken in
each group of tiles.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.workers.pool import BatchAt, Gathered
from distnum.workers.tiles import Shard, all_tiles, balance, make_shards
from distnum.workers.work import Work

__all__ = ["Planner", "first_part"]

# For at most this many workers, costs are taken from earlier steps. With few shards they vary little
# between batches, and drawing the batch in the driver as well would slow the workers.
_FEW_WORKERS = 4
# A plan is kept while its balance is at most this much worse than when it was made.
_WORSE = 0.01
# A task takes about this many seconds, so that losing its worker loses little.
_PART_S = 2.0
# Fraction of a shard in the first task, while it is not known how long work takes.
_FIRST_SHARE = 1 / 16


class Planner:
    """Plans the steps of one pool.

    Args:
        work: What is computed.
        batch_at: Returns the batch of a step.
    """

    def __init__(self, work: Work, batch_at: BatchAt) -> None:
        self._work = work
        self._batch_at = batch_at
        self._step: int | None = None
        self._known_costs: NDArray[np.float64] | None = None
        self._group_rates: NDArray[np.float64] | None = None
        self._workers: list[Hashable] = []
        self._shards: list[Shard] = []
        self._planned_balance = 1.0
        self.costs = np.empty(0)
        """Expected costs of the planned step's tiles, as fractions of their sum, shape ``(n_tiles,)``."""

    def plan(self, step: int, workers: Sequence[Hashable], speeds: NDArray[np.float64]) -> None:
        """Plan a step for workers with these relative speeds, unless it is planned already."""
        if step == self._step:
            return
        costs = self._expected_costs(step, len(workers))
        self._step, self.costs = step, costs / max(float(costs.sum()), 1e-300)
        kept = self._workers == list(workers)
        if kept and balance(self.costs, self._shards, speeds) < self._planned_balance + _WORSE:
            return  # planning anew would take time from the workers
        self._workers, self._shards = list(workers), self._make_shards(len(workers), speeds)
        self._planned_balance = balance(self.costs, self._shards, speeds) if self._shards else 1.0

    def shards(self, step: int, workers: Sequence[Hashable], speeds: NDArray[np.float64]) -> list[Shard]:
        """Shard of each worker for a step; planned now if it was not planned for these workers before."""
        self.plan(step, workers, speeds)
        return self._shards if self._workers == list(workers) else self._make_shards(len(workers), speeds)

    def _make_shards(self, n_workers: int, speeds: NDArray[np.float64]) -> list[Shard]:
        if n_workers < 2:
            return [all_tiles(self._work.tiles)] * n_workers
        return make_shards(self.costs, n_workers, self._work.groups, speeds)

    def _expected_costs(self, step: int, n_workers: int) -> NDArray[np.float64]:
        costs = self._known_costs
        if costs is None or n_workers > _FEW_WORKERS:
            costs = self._work.expected_costs(self._batch_at(step), self._known_costs)
        if self._group_rates is not None and self._work.groups is not None:
            costs = costs * self._group_rates[self._work.groups]
        return costs

    def learn(self, gathered: Gathered, planned_costs: NDArray[np.float64]) -> dict[Any, float]:
        """Update the forecasts from a step.

        Args:
            gathered: The step's answers.
            planned_costs: ``costs`` as they were when the step was handed out.

        Returns:
            Speed of each worker relative to the mean; empty if there were fewer than two workers.
        """
        self._learn_costs(gathered)
        work_of: dict[Any, tuple[float, float]] = {}
        for worker, shard, reply in gathered.replies:
            share = float(planned_costs[shard].sum())
            seconds = float(reply.group_s.sum()) if reply.group_s is not None else reply.compute_s
            if share > 0 and seconds > 0:
                shares_before, seconds_before = work_of.get(worker, (0.0, 0.0))
                work_of[worker] = shares_before + share, seconds_before + seconds
        if len(work_of) < 2:
            return {}
        mean = sum(share for share, _ in work_of.values()) / sum(seconds for _, seconds in work_of.values())
        return {worker: share / seconds / mean for worker, (share, seconds) in work_of.items()}

    def _learn_costs(self, gathered: Gathered) -> None:
        """Remember the tiles' costs, and the seconds for a unit of cost in each group."""
        groups, costs = self._work.groups, gathered.costs
        if costs is None:
            return
        # Averages with earlier steps: one step may have been disturbed.
        self._known_costs = costs if self._known_costs is None else (self._known_costs + costs) / 2
        if groups is None:
            return
        n_groups = int(groups[-1]) + 1
        cost, seconds = np.zeros(n_groups), np.zeros(n_groups)
        for _, shard, reply in gathered.replies:
            cost += np.bincount(groups[shard], costs[shard], n_groups)
            if reply.group_s is not None:
                seconds += reply.group_s
        rates = np.full(n_groups, seconds.sum() / max(cost.sum(), 1e-300))  # for groups without any work
        np.divide(seconds, cost, out=rates, where=cost > 0)
        self._group_rates = rates if self._group_rates is None else (self._group_rates + rates) / 2


def first_part(shard: Shard, costs: NDArray[np.float64], turn_s: float | None, speed: float = 1.0) -> int:
    """Number of a shard's tiles to put into one task.

    Args:
        shard: Tiles to hand out.
        costs: Costs of all tiles, as fractions of their sum.
        turn_s: Seconds that one worker would take for all tiles; None if unknown.
        speed: Speed of the worker relative to the others.
    """
    shares = costs[shard]
    total = float(shares.sum())
    most = total * _FIRST_SHARE if turn_s is None else _PART_S * speed / max(turn_s, 1e-300)
    if total <= 1.5 * most:
        return len(shard)
    return max(1, int(np.searchsorted(np.cumsum(shares), most, side="right")))
