"""One measurement of one setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

__all__ = ["MODES", "NOT_FOR_SCALE", "PARTS", "ClusterNodes", "Measurement", "Setting"]

MODES = ("strong", "weak")
ASKED_OVER = ("sockets", "Ray")

PARTS = ("broadcast_s", "dispatch_s", "compute_s", "gather_s", "update_s", "other_s")
"""What the time of a step is made of; see ``Measurement``."""

# Cores that are busy for so much of the time are the limit.
_SATURATED = 0.75


class Setting(NamedTuple):
    """What is varied."""

    workers: int
    threads: int

    @property
    def cores(self) -> int:
        return self.workers * self.threads

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} threads" if self.threads > 1 else str(self.workers)


class ClusterNodes(NamedTuple):
    """Where workers are.

    Attributes:
        asked_over: of ``ASKED_OVER``.
        node_cpus: of every node that there is, the most first.
        n_nodes: with workers.
    """

    asked_over: str
    node_cpus: tuple[int, ...]
    n_nodes: int


@dataclass(frozen=True)
class Measurement:
    """One measurement of one setting: medians over its steps.

    Attributes:
        mode: ``"strong"``, the same work for all, or ``"weak"``, a batch that grows with the workers.
        workers, threads, nodes: that took part.
        repeat: its number, from 1.
        steps, warmup: that were measured, and others before them.
        step_s: seconds of a step, from one update to the next.
        broadcast_s: of that, the driver lays out the parameters.
        dispatch_s: it asks each worker for its shard.
        compute_s: the slowest worker computes.
        gather_s: answers come in, and what the driver waits, or plans the next step, beside computing; below 0
            where workers compute while others are still being asked.
        update_s: the gradient is checked and applied.
        other_s: all the rest.
        mean_compute_s: what a worker computes on average.
        balance: the slowest worker over the average.
        planned_balance: the same as it was planned, from the costs of the tiles.
        busy: the share of a worker's computing in which its cores were busy; in the rest it waited.
        cores: that there were for them, on these nodes.
        asked_over: ``"sockets"`` of this machine, or ``"Ray"``, by calls of it, which take longer.
        params_sha256: of the parameters after the last step.
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
        """Whether there were more threads than cores, and these were busy: the threads waited for each other."""
        asked = self.workers * self.threads
        return asked > self.cores and asked * self.busy > _SATURATED * self.cores

    @property
    def setting(self) -> Setting:
        return Setting(self.workers, self.threads)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """What ``to_dict`` gave.

        Raises:
            ValueError: it is something else.
        """
        kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
        found: dict[str, Any] = {}
        for item in fields(cls):
            value = values.get(item.name)
            if not isinstance(value, kinds[str(item.type)]) or (isinstance(value, bool) and item.type != "bool"):
                raise ValueError(f"{item.name} is {value!r:.40}")
            found[item.name] = value
        for name in ("workers", "threads", "nodes", "repeat", "steps", "cores", "step_s"):
            if not 0 < found[name] < float("inf"):
                raise ValueError(f"{name} is {found[name]!r:.40}")
        differences = ("gather_s", "other_s")
        for name in (*PARTS, "warmup", "mean_compute_s", "balance", "planned_balance", "busy"):
            if not (-float("inf") if name in differences else 0) <= found[name] < float("inf"):
                raise ValueError(f"{name} is {found[name]!r:.40}")
        for name, allowed in (("mode", MODES), ("asked_over", ASKED_OVER)):
            if found[name] not in allowed:
                raise ValueError(f"{name} is {found[name]!r:.40}")
        return cls(**found)


NOT_FOR_SCALE = ("workers", "threads_per_worker", "steps", "on_nonfinite")
"""Fields of a configuration that ``scale`` sets by itself."""
