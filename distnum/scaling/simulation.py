"""A simulator of steps on workers that are not at hand: thousands of them, slow links, stragglers, failures.

One step after the other is played through, event by event: the driver (or, with a tree, relays below
it) asks worker after worker, each computes for as long as its shard, chance and misfortune have it,
answers queue where they are taken one at a time, and what is lost or overdue is handed to those
who are idle, as ``gathering.py`` does it. The times of the parts come from a ``ScalingModel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from distnum.scaling.model import ScalingModel
from distnum.workers.tiles import make_shards

__all__ = ["Design", "Misfortune", "System", "simulate"]

Times = NDArray[np.float64]

# As in gathering.py: an answer is overdue after so many times what it should take, and so many seconds.
_COPY_FACTOR, _COPY_S = 2.0, 0.25


@dataclass(frozen=True)
class Misfortune:
    """What goes wrong.

    Attributes:
        failures_per_hour: of one worker.
        detect_s: seconds until a failure is known.
        straggler_share: of the shards that take longer than they should,
        straggler_factor: and how many times as long.
    """

    failures_per_hour: float = 0.0
    detect_s: float = 1.0
    straggler_share: float = 0.0
    straggler_factor: float = 10.0


@dataclass(frozen=True)
class Design:
    """How the driver and the workers are joined.

    Attributes:
        fan: workers (or relays) that one sender asks and hears; None for all by the driver.
        sharded_update: every worker updates its own share of the parameters, and gets the others'
            from all nodes at once; the driver neither sends parameters nor takes gradients.
        in_flight: steps that are under way at once; with more than one, gradients are taken at
            parameters that are as many steps old: another training, not the same bits.
    """

    fan: int | None = None
    sharded_update: bool = False
    in_flight: int = 1


@dataclass(frozen=True)
class System:
    """What a step is made of; seconds, if nothing else is said.

    Attributes:
        work_s, repeated_s, jitter_s, ask_s, take_s, fixed_s: of a ``ScalingModel``: shared and repeated
            computing, its spread, asking one worker, taking one answer, and what does not depend on
            the workers.
        costs: of the tiles beside each other, shape ``(n_tiles,)``.
        groups: of the tiles, as the plan takes them.
        node_s: of taking the parameters to one more node.
        answers_s: of all answers on the driver's link, where there are several nodes.
        latency_s: of one message between nodes.
        workers_per_node: how many.
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
    def of(
        cls,
        model: ScalingModel,
        costs: NDArray[np.float64],
        groups: NDArray[np.int64] | None = None,
    ) -> System:
        """The system that a model of strong scaling was fitted on."""
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
            # Where nodes were measured, they are in what taking one took.
            answers_s=c["node_s"] if model.n_nodes == 1 else 0.0,
            workers_per_node=model.workers_per_node,
        )

    def shares(self, n_workers: int) -> Times:
        """Of the work, for each worker, as the plan gives it."""
        shards = make_shards(self.costs, n_workers, self.groups)
        return np.array([self.costs[shard].sum() for shard in shards]) / self.costs.sum()


def simulate(
    system: System,
    n_workers: int,
    n_steps: int = 20,
    design: Design | None = None,
    misfortune: Misfortune | None = None,
    seed: int = 0,
) -> Times:
    """Seconds of each of so many steps.

    Args:
        system: what a step is made of.
        n_workers: how many share it.
        n_steps: to play through.
        design: how driver and workers are joined; by default as they are.
        misfortune: what goes wrong; by default nothing does.
        seed: of the chances.
    """
    design = design if design is not None else Design()
    misfortune = misfortune if misfortune is not None else Misfortune()
    rng = np.random.default_rng(seed)
    shares = system.shares(n_workers)
    seconds = np.array([_one_step(system, shares, design, misfortune, rng) for _ in range(n_steps)])
    if design.in_flight == 1:
        return seconds.sum(axis=1)
    # What the driver does is done for one step at a time; all else overlaps.
    waiting, driver = seconds.T
    return np.maximum(driver, (waiting + driver) / design.in_flight)


def _one_step(
    system: System, shares: Times, design: Design, misfortune: Misfortune, rng: np.random.Generator
) -> tuple[float, float]:
    """Seconds in which the driver waits, and in which it is busy."""
    k = len(shares)
    n_nodes = ceil(k / system.workers_per_node)
    latency_s = system.latency_s if n_nodes > 1 else 0.0
    if n_nodes == 1:
        laid_out_s = 0.0
    elif design.sharded_update:
        laid_out_s = system.node_s  # each node sends its share to all, and hears the others, at once
    elif design.fan is None:
        laid_out_s = system.node_s * (n_nodes - 1)
    else:
        laid_out_s = system.node_s * min(design.fan, n_nodes - 1) * _depth(n_nodes, design.fan)
    expected = system.repeated_s + system.work_s * shares
    compute = np.maximum(expected + system.jitter_s * rng.standard_normal(k), 0)
    late = rng.random(k) < misfortune.straggler_share
    compute = np.where(late, compute * misfortune.straggler_factor, compute)
    asked = laid_out_s + _asked(k, design.fan, system.ask_s, latency_s)
    arrived = asked + compute + latency_s
    rate = misfortune.failures_per_hour / 3600
    failed = rng.random(k) < -np.expm1(-rate * compute)
    died = asked + compute * rng.random(k)
    overdue = asked + _COPY_FACTOR * expected + _COPY_S
    # Whoever is idle by then shares what is lost or overdue.
    for worker in np.flatnonzero(failed | (arrived > overdue)).tolist():
        known = died[worker] + misfortune.detect_s if failed[worker] else overdue[worker]
        others = np.delete(arrived, worker)[~np.delete(failed, worker)]
        n_idle = max(1, int(np.count_nonzero(others <= known)))
        begun = max(known, float(others.min())) if len(others) else known + misfortune.detect_s
        n_parts = min(n_idle, max(1, round(shares[worker] * len(system.costs))))
        taken = begun + n_parts * system.ask_s + system.repeated_s + system.work_s * shares[worker] / n_parts
        again = taken + 2 * latency_s
        arrived[worker] = again if failed[worker] else min(arrived[worker], again)
    transfer_s = 0.0 if design.sharded_update or n_nodes == 1 else system.answers_s / k
    done = _taken(arrived, design.fan, system.take_s, transfer_s, latency_s)
    busy = system.fixed_s + (min(design.fan or k, k)) * (system.ask_s + system.take_s)
    return max(0.0, done + system.fixed_s - busy), busy


def _depth(k: int, fan: int) -> int:
    """Levels of a tree below the driver."""
    depth, reach = 1, fan
    while reach < k:
        depth, reach = depth + 1, reach * fan
    return depth


def _asked(k: int, fan: int | None, ask_s: float, latency_s: float) -> Times:
    """When each worker has been asked: one after the other, by the driver or by the relays of a tree."""
    if fan is None or fan >= k:
        return ask_s * np.arange(1.0, k + 1) + latency_s
    places = np.arange(k)
    asked = np.zeros(k, np.float64)
    for _ in range(_depth(k, fan)):
        asked += ask_s * (places % fan + 1) + latency_s
        places = places // fan
    return asked


def _taken(arrived: Times, fan: int | None, take_s: float, transfer_s: float, latency_s: float) -> float:
    """When the last answer has been taken: one after the other, as they come, at each relay and at the driver."""
    level, each_s = arrived, take_s + transfer_s
    if fan is not None:
        while len(level) > fan:
            groups = [level[i : i + fan] for i in range(0, len(level), fan)]
            level = np.array([_queued(group, each_s) for group in groups]) + latency_s
            each_s = take_s + fan * (each_s - take_s)  # a relay's answer is as long as all that it has heard
    return _queued(level, each_s)


def _queued(arrived: Times, each_s: float) -> float:
    """When the last of some arrivals has been served, one at a time (D. V. Lindley 1952)."""
    arrived = np.sort(arrived)
    served = each_s * np.arange(1, len(arrived) + 1)
    return float((np.maximum.accumulate(arrived - served + each_s) + served)[-1])
