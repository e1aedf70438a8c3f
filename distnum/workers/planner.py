"""Plans the tiles of the next turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.training.job import Job
from distnum.workers.pool import Gathered, Pool

__all__ = ["Planner"]


# So many workers are planned from what the steps before have cost, without looking at the batch.
_FEW_WORKERS = 4


class Planner:
    """Tells the pool what the tiles of the next gradient will cost."""

    def __init__(self, job: Job, pool: Pool) -> None:
        self._job = job
        self._pool = pool
        self._costs: NDArray[np.float64] | None = None
        self._rates: NDArray[np.float64] | None = None

    def learn(self, found: Gathered) -> None:
        """Take in what the tiles of a step have cost, and how many seconds that has meant in each group of tiles."""
        groups, costs = self._job.objective.groups, found.costs
        if groups is None or costs is None or not found.answers:
            return
        n_groups = int(groups[-1]) + 1
        cost = sum(np.bincount(groups[shard], costs[shard], n_groups) for shard, _ in found.answers)
        seconds = sum(one.group_s for _, one in found.answers if one.group_s is not None)
        known = np.asarray(cost) > 0
        rates = np.full(n_groups, np.sum(seconds) / max(np.sum(cost), 1e-300))  # of a group that had nothing to do
        np.divide(seconds, cost, out=rates, where=known)
        self._costs = costs if self._costs is None else (self._costs + costs) / 2
        # Halfway to what was measured: one step may have been disturbed.
        self._rates = rates if self._rates is None else (self._rates + rates) / 2

    def plan(self, number: int) -> None:
        """Plan the gradient of a step."""
        objective = self._job.objective
        if self._costs is not None and self._pool.n_workers <= _FEW_WORKERS:
            # Between few shards batches hardly differ, and to draw one more would take time from
            # the workers, where they have all cores.
            costs = self._costs
        else:
            costs = objective.expected_costs(self._job.batch_at(number), self._costs)
        if self._rates is not None and objective.groups is not None:
            costs = costs * self._rates[objective.groups]
        self._pool.plan(costs)
