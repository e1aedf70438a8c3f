"""What a Ray cluster has: CPUs, nodes and other resources."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from distnum.common.errors import InputError
from distnum.common.machine import n_cores

__all__ = ["RayCluster"]


class RayCluster:
    """The cluster that this process is connected to.

    Args:
        ray: The connected ``ray`` module.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.here = ray.get_runtime_context().get_node_id()

    @property
    def n_cpus(self) -> int:
        """CPUs of all nodes, as Ray counts them."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def n_nodes(self) -> int:
        """Number of live nodes."""
        return sum(1 for node in self._ray.nodes() if node["Alive"])

    def node_cpus(self, nodes: Collection[str] | None = None) -> list[int]:
        """CPUs of live nodes, largest first: of all, or of those with these ids.

        As Ray counts them, but for this machine at most the number of its cores.
        """
        n_cpus = []
        for node in self._ray.nodes():
            if node["Alive"] and (nodes is None or node["NodeID"] in nodes):
                cpus = int(node["Resources"].get("CPU", 0))
                n_cpus.append(min(cpus, n_cores()) if node["NodeID"] == self.here else cpus)
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
        available = self._ray.cluster_resources()
        for name, amount in resources.items():
            if available.get(name, 0) < amount:
                names = ", ".join(sorted(name for name in available if ":" not in name))
                raise InputError(
                    f"resources asks for {name}={amount:g} a worker, but the Ray cluster has "
                    f"{available.get(name, 0):g} of it; it has {names}."
                )
