"""Simulate steps of other designs, and steps with stragglers and failures.

Extends ``distnum.scaling.simulation`` by trees of relays, sharded updates, several steps in flight,
slow shards and failing workers. With ``Design()`` and ``Misfortune()`` it gives the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from distnum.scaling.simulation import System, Times, queue_end, recomputed_at
from distnum.workers.ray_pool.deadlines import COPY_FACTOR, COPY_S

__all__ = ["Design", "Misfortune", "simulate_design"]


@dataclass(frozen=True)
class Misfortune:
    """Slow shards and failures.

    Attributes:
        failures_per_hour: Failures of one worker per hour.
        detect_s: Seconds until a failure is detected.
        straggler_share: Fraction of the shards that take longer than expected.
        straggler_factor: How many times as long these take.
    """

    failures_per_hour: float = 0.0
    detect_s: float = 1.0
    straggler_share: float = 0.0
    straggler_factor: float = 10.0


@dataclass(frozen=True)
class Design:
    """How the driver and the workers are connected.

    Attributes:
        fan: Number of workers (or relays) that one sender asks, in a tree; None if the driver asks all.
        sharded_update: Whether every worker updates its own share of the parameters and gets the others
            from all nodes at once; the driver then neither sends parameters nor receives gradients.
        in_flight: Number of steps under way at once. With more than one, gradients are taken at
            older parameters: the training differs, and so do its bits.
    """

    fan: int | None = None
    sharded_update: bool = False
    in_flight: int = 1


def simulate_design(
    system: System,
    n_workers: int,
    n_steps: int = 20,
    design: Design | None = None,
    misfortune: Misfortune | None = None,
    seed: int = 0,
) -> Times:
    """Return the seconds of each simulated step, shape ``(n_steps,)``.

    Args:
        system: Times of the parts of a step.
        n_workers: Number of workers that share the work.
        n_steps: Number of steps to simulate.
        design: How the driver and the workers are connected; by default as in distnum.
        misfortune: Stragglers and failures; by default none.
        seed: Seed of the random times and events.
    """
    design = design if design is not None else Design()
    misfortune = misfortune if misfortune is not None else Misfortune()
    rng = np.random.default_rng(seed)
    shares = system.shares(n_workers)
    seconds = np.array([_step_s(system, shares, design, misfortune, rng) for _ in range(n_steps)])
    if design.in_flight == 1:
        return seconds.sum(axis=1)
    # The driver serves one step at a time; everything else overlaps.
    waiting, driver = seconds.T
    return np.maximum(driver, (waiting + driver) / design.in_flight)


def _step_s(
    system: System, shares: Times, design: Design, misfortune: Misfortune, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the seconds in which the driver waits, and those in which it is busy."""
    k = len(shares)
    n_nodes = ceil(k / system.workers_per_node)
    latency_s = system.latency_s if n_nodes > 1 else 0.0
    expected = system.repeated_s + system.work_s * shares
    compute = np.maximum(expected + system.jitter_s * rng.standard_normal(k), 0)
    slow = rng.random(k) < misfortune.straggler_share
    compute = np.where(slow, compute * misfortune.straggler_factor, compute)
    asked = _broadcast_s(system, n_nodes, design) + _asked(k, design.fan, system.ask_s, latency_s)
    arrived = asked + compute + latency_s
    rate = misfortune.failures_per_hour / 3600
    failed = rng.random(k) < -np.expm1(-rate * compute)
    died = asked + compute * rng.random(k)
    overdue = asked + COPY_FACTOR * expected + COPY_S
    # Idle workers share the tiles of a failed or overdue one.
    for worker in np.flatnonzero(failed | (arrived > overdue)).tolist():
        known = died[worker] + misfortune.detect_s if failed[worker] else overdue[worker]
        others = np.delete(arrived, worker)[~np.delete(failed, worker)]
        alone_s = misfortune.detect_s if failed[worker] else inf
        again = recomputed_at(system, shares[worker], known, others, latency_s, alone_s)
        arrived[worker] = again if failed[worker] else min(arrived[worker], again)
    transfer_s = 0.0 if design.sharded_update or n_nodes == 1 else system.answers_s / k
    done = _taken(arrived, design.fan, system.take_s, transfer_s, latency_s)
    busy = system.fixed_s + (min(design.fan or k, k)) * (system.ask_s + system.take_s)
    return max(0.0, done + system.fixed_s - busy), busy


def _broadcast_s(system: System, n_nodes: int, design: Design) -> float:
    """Return the seconds until all nodes have the parameters."""
    if n_nodes == 1:
        return 0.0
    if design.sharded_update:
        return system.node_s  # each node sends its share to all others and receives theirs at once
    if design.fan is None:
        return system.node_s * (n_nodes - 1)
    return system.node_s * min(design.fan, n_nodes - 1) * _depth(n_nodes, design.fan)


def _depth(k: int, fan: int) -> int:
    """Return the number of levels of a tree below the driver."""
    depth, reach = 1, fan
    while reach < k:
        depth, reach = depth + 1, reach * fan
    return depth


def _asked(k: int, fan: int | None, ask_s: float, latency_s: float) -> Times:
    """Return when each worker has been asked, one after another, by the driver or by the relays of a tree."""
    if fan is None or fan >= k:
        return ask_s * np.arange(1.0, k + 1) + latency_s
    positions = np.arange(k)
    asked = np.zeros(k, np.float64)
    for _ in range(_depth(k, fan)):
        asked += ask_s * (positions % fan + 1) + latency_s
        positions = positions // fan
    return asked


def _taken(arrived: Times, fan: int | None, take_s: float, transfer_s: float, latency_s: float) -> float:
    """Return when the last answer has been taken; each relay and the driver take them one at a time."""
    level, each_s = arrived, take_s + transfer_s
    if fan is not None:
        while len(level) > fan:
            groups = [level[i : i + fan] for i in range(0, len(level), fan)]
            level = np.array([queue_end(group, each_s) for group in groups]) + latency_s
            each_s = take_s + fan * (each_s - take_s)  # a relay forwards all the answers that it received
    return queue_end(level, each_s)
