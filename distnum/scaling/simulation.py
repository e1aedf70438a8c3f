"""Simulate steps on numbers of workers that were not measured.

A step is simulated event by event: the driver asks one worker after another, each computes its shard
for a random time, and the driver takes the answers one at a time. Tiles of an overdue worker are
copied to idle ones, after the same time as in ``workers/ray_pool``. The times of the parts come from
a ``ScalingModel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from distnum.scaling.model import ScalingModel
from distnum.workers.ray_pool.deadlines import COPY_FACTOR, COPY_S
from distnum.workers.tiles import make_shards

__all__ = ["System", "Times", "queue_end", "recomputed_at", "simulate"]

Times = NDArray[np.float64]
"""Seconds, shape ``(n_workers,)`` or ``(n_steps,)``."""


@dataclass(frozen=True)
class System:
    """The times that make up a step; all in seconds unless stated otherwise.

    Attributes:
        work_s: Computing that is shared among the workers.
        repeated_s: Computing that every worker repeats.
        jitter_s: Standard deviation of a worker's computing time.
        ask_s: Asking one worker.
        take_s: Taking one answer.
        fixed_s: Everything that does not depend on the number of workers.
        costs: Relative costs of the tiles, shape ``(n_tiles,)``.
        groups: Group number of each tile, as ``make_shards`` takes them.
        node_s: Sending the parameters to one further node.
        answers_s: Sending all answers over the driver's link, if there are several nodes.
        latency_s: Latency of one message between nodes.
        workers_per_node: Number of workers on each node.
    """

    work_s: float
    repeated_s: float
    jitter_s: float
    ask_s: float
    take_s: float
    fixed_s: float
    costs: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    node_s: float = 0.0
    answers_s: float = 0.0
    latency_s: float = 1e-4
    workers_per_node: int = 1

    @classmethod
    def of(cls, model: ScalingModel, costs: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> System:
        """Return the system that a model of strong scaling describes."""
        c = {name: float(draws[0]) for name, draws in model.coefficients.items()}
        return cls(
            work_s=c["work_s"],
            repeated_s=c["repeated_s"],
            jitter_s=c["jitter_s"],
            ask_s=c["worker_dispatch_s"] + c["worker_other_s"],
            take_s=max(0.0, c["worker_gather_s"]),
            fixed_s=c["broadcast_s"] + c["dispatch_s"] + c["gather_s"] + c["update_s"] + c["other_s"],
            costs=costs,
            groups=groups,
            node_s=c["node_s"],
            # If several nodes were measured, the measured time of a node includes its answers.
            answers_s=c["node_s"] if model.n_nodes == 1 else 0.0,
            workers_per_node=model.workers_per_node,
        )

    def shares(self, n_workers: int) -> Times:
        """Return each worker's fraction of the work, as the tiles are shared; shape ``(n_workers,)``."""
        shards = make_shards(self.costs, n_workers, self.groups)
        return np.array([self.costs[shard].sum() for shard in shards]) / self.costs.sum()


def simulate(system: System, n_workers: int, n_steps: int = 20, seed: int = 0) -> Times:
    """Return the seconds of each simulated step, shape ``(n_steps,)``.

    Args:
        system: Times of the parts of a step.
        n_workers: Number of workers that share the work.
        n_steps: Number of steps to simulate.
        seed: Seed of the random computing times.
    """
    rng = np.random.default_rng(seed)
    shares = system.shares(n_workers)
    return np.array([_step_s(system, shares, rng) for _ in range(n_steps)])


def _step_s(system: System, shares: Times, rng: np.random.Generator) -> float:
    k = len(shares)
    n_nodes = ceil(k / system.workers_per_node)
    latency_s = system.latency_s if n_nodes > 1 else 0.0
    transfer_s = system.answers_s / k if n_nodes > 1 else 0.0
    asked = system.node_s * (n_nodes - 1) + system.ask_s * np.arange(1.0, k + 1) + latency_s
    expected = system.repeated_s + system.work_s * shares
    arrived = asked + np.maximum(expected + system.jitter_s * rng.standard_normal(k), 0) + latency_s
    # benchmarks/simulation.py draws these for stragglers and failures: both give the same steps for a seed.
    rng.random((3, k))
    overdue = asked + COPY_FACTOR * expected + COPY_S
    for worker in np.flatnonzero(arrived > overdue).tolist():
        others = np.delete(arrived, worker)
        copied = recomputed_at(system, shares[worker], overdue[worker], others, latency_s)
        arrived[worker] = min(arrived[worker], copied)
    driver_s = system.fixed_s + k * (system.ask_s + system.take_s)
    return max(driver_s, queue_end(arrived, system.take_s + transfer_s) + system.fixed_s)


def recomputed_at(
    system: System, share: float, known: float, others: Times, latency_s: float, alone_s: float = inf
) -> float:
    """Return when the idle workers have computed a missing or overdue shard.

    Args:
        system: Times of the parts of a step.
        share: The shard's fraction of the work.
        known: When the shard is known to be missing or overdue.
        others: When the answers of the other workers arrive.
        latency_s: Latency of one message.
        alone_s: Delay until the shard is computed again if there are no other workers.
    """
    n_idle = max(1, int(np.count_nonzero(others <= known)))
    start = max(known, float(others.min())) if len(others) else known + alone_s
    n_parts = min(n_idle, max(1, round(share * len(system.costs))))
    computed = start + n_parts * system.ask_s + system.repeated_s + system.work_s * share / n_parts
    return computed + 2 * latency_s


def queue_end(arrived: Times, each_s: float) -> float:
    """Return when the last arrival has been served, one at a time, ``each_s`` each (D. V. Lindley 1952)."""
    arrived = np.sort(arrived)
    served = each_s * np.arange(1, len(arrived) + 1)
    return float((np.maximum.accumulate(arrived - served + each_s) + served)[-1])
