"""One measurement of one setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any, NamedTuple

__all__ = ["MODES", "NOT_FOR_SCALE", "PARTS", "ClusterNodes", "Measurement", "Setting"]

MODES = ("strong", "weak")
ASKED_OVER = ("sockets", "Ray")

NOT_FOR_SCALE = ("workers", "threads_per_worker", "steps", "on_nonfinite")
"""Fields of a configuration that ``scale`` sets itself."""

PARTS = ("broadcast_s", "dispatch_s", "compute_s", "gather_s", "update_s", "other_s")
"""The parts of a step's time; see ``Measurement``."""

# Cores that are busy for this fraction of the time limit the speed.
_SATURATED = 0.75


class Setting(NamedTuple):
    """A number of workers, each with a number of threads."""

    workers: int
    threads: int

    @property
    def cores(self) -> int:
        return self.workers * self.threads

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} threads" if self.threads > 1 else str(self.workers)


class ClusterNodes(NamedTuple):
    """The nodes that the workers run on.

    Attributes:
        asked_over: How workers get their tasks, one of ``ASKED_OVER``.
        node_cpus: CPUs of every node of the cluster, in descending order.
        n_nodes: Number of nodes with workers.
    """

    asked_over: str
    node_cpus: tuple[int, ...]
    n_nodes: int


@dataclass(frozen=True)
class Measurement:
    """One measurement of one setting: medians over its steps.

    Attributes:
        mode: ``"strong"``, the same work for all settings, or ``"weak"``, a batch that grows with the workers.
        workers, threads, nodes: Number of workers, threads of each, and nodes used.
        repeat: Number of the repeat, from 1.
        steps: Steps measured.
        warmup: Steps before them that were not measured.
        step_s: Seconds of a step, from one update to the next.
        broadcast_s: Part of it in which the driver publishes the parameters.
        dispatch_s: Part in which the driver sends the workers their tasks.
        compute_s: Part in which the slowest worker computes.
        gather_s: Part in which the driver waits for answers or plans the next step, apart from computing.
            Negative if workers compute while tasks are still being sent to others.
        update_s: Part in which the gradient is checked and applied.
        other_s: The rest of the step.
        mean_compute_s: Mean computing time of the workers.
        balance: Computing time of the slowest worker, relative to the mean.
        planned_balance: The same as planned, from the costs of the tiles.
        busy: Fraction of a worker's computing time in which its cores were busy.
        cores: Number of cores of the nodes used.
        asked_over: How workers get their tasks: over ``"sockets"`` of this machine, or by calls of
            ``"Ray"``, which take longer.
        params_sha256: Checksum of the parameters after the last step.
        measured_at: Time of the measurement, ISO 8601, UTC.
    """

    mode: str
    workers: int
    threads: int
    nodes: int
    repeat: int
    steps: int
    warmup: int
    step_s: float
    broadcast_s: float
    dispatch_s: float
    compute_s: float
    gather_s: float
    update_s: float
    other_s: float
    mean_compute_s: float
    balance: float
    planned_balance: float
    busy: float
    cores: int
    asked_over: str
    params_sha256: str
    measured_at: str

    @property
    def oversubscribed(self) -> bool:
        """Whether there were more busy threads than cores, so that threads waited for each other."""
        n_threads = self.workers * self.threads
        return n_threads > self.cores and n_threads * self.busy > _SATURATED * self.cores

    @property
    def setting(self) -> Setting:
        return Setting(self.workers, self.threads)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Measurement:
        """Return the measurement that ``to_dict`` was called on.

        Raises:
            ValueError: A value is missing or cannot be right.
        """
        types: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
        values: dict[str, Any] = {}

        def refuse_unless(possible: bool, name: str) -> None:
            if not possible:
                raise ValueError(f"{name} is {row.get(name)!r:.40}")

        for field in fields(cls):
            value = values[field.name] = row.get(field.name)
            refuse_unless(isinstance(value, types[str(field.type)]) and not isinstance(value, bool), field.name)
        for name in ("workers", "threads", "nodes", "repeat", "steps", "cores", "step_s"):
            refuse_unless(0 < values[name] < inf, name)
        for name in (*PARTS, "warmup", "mean_compute_s", "balance", "planned_balance", "busy"):
            # These are differences, and may be negative.
            lowest = -inf if name in ("gather_s", "other_s") else 0
            refuse_unless(lowest <= values[name] < inf, name)
        for name, allowed in (("mode", MODES), ("asked_over", ASKED_OVER)):
            refuse_unless(values[name] in allowed, name)
        return cls(**values)
