"""What a Ray cluster has: CPUs, nodes and other resources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from distnum.common.errors import InputError
from distnum.common.machine import n_cores
from distnum.workers.ray_pool.guarded import GuardedRay

__all__ = ["RayCluster"]

T = TypeVar("T")


class RayCluster:
    """The cluster that this process is connected to.

    Args:
        ray: The connected ``ray`` module.
    """

    def __init__(self, ray: GuardedRay) -> None:
        self._ray = ray
        self._here = ray.get_runtime_context().get_node_id()
        self._nodes = self._live(ray.nodes())
        self._asked: Future[list[dict[str, Any]]] | None = None

    def counts(self, counts_of: Callable[[int, int], T]) -> T:
        """Call a function with the numbers of CPUs and nodes.

        They are those of the control service's last answer. It is asked again, without waiting for the answer.
        """
        if self._asked is None:
            self._asked = self._ray.nodes_later()
        elif self._asked.done():
            asked, self._asked = self._asked, None
            self._nodes = self._live(asked.result())
        return counts_of(self.n_cpus, self.n_nodes)

    def _live(self, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [node for node in nodes if node["Alive"]]

    @property
    def n_cpus(self) -> int:
        """CPUs of all nodes, as Ray counts them."""
        return int(self._resources().get("CPU", 0))

    @property
    def n_nodes(self) -> int:
        """Number of live nodes."""
        return len(self._nodes)

    def _resources(self) -> dict[str, float]:
        total: defaultdict[str, float] = defaultdict(float)
        for node in self._nodes:
            for name, amount in node["Resources"].items():
                total[name] += amount
        return total

    def node_cpus(self, nodes: Collection[str] | None = None) -> list[int]:
        """CPUs of the nodes that are live now, largest first: of all, or of those with these ids.

        As Ray counts them, but for this machine at most the number of its cores.
        """
        n_cpus = []
        for node in self._live(self._ray.nodes()):
            if nodes is None or node["NodeID"] in nodes:
                cpus = int(node["Resources"].get("CPU", 0))
                n_cpus.append(min(cpus, n_cores()) if node["NodeID"] == self._here else cpus)
        return sorted(n_cpus, reverse=True)

    def check_room(self, n_workers: int, n_threads: int, resources: Mapping[str, float]) -> None:
        """Refuse workers that the cluster has no room for.

        Raises:
            InputError: There are too few CPUs or other resources.
        """
        if n_workers * n_threads > self.n_cpus:
            raise InputError(
                f"workers is {n_workers} and threads_per_worker is {n_threads}, but the Ray cluster "
                f"has {self.n_cpus} CPUs; their product must not be more."
            )
        available = self._resources()
        for name, amount in resources.items():
            if available.get(name, 0) < amount:
                names = ", ".join(sorted(name for name in available if ":" not in name))
                raise InputError(
                    f"resources asks for {name}={amount:g} a worker, but the Ray cluster has "
                    f"{available.get(name, 0):g} of it; it has {names}."
                )
