"""Notices the loss of the cluster: of its control service, or of the raylet of this machine.

Ray waits for a control service that does not answer without a limit, or for a minute and then ends
this process; it also ends this process when it next uses the object store of a raylet that has
ended. The driver must notice first, so that it can save its state.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from time import monotonic
from typing import Any

from distnum.common.checks import host_and_port
from distnum.common.errors import LostError
from distnum.workers.ray_pool.address import not_grpc

__all__ = ["ClusterWatch"]

_LOOK_S = 1.0
_ANSWER_TIMEOUT_S = 1.5
# Servers that have not answered for these seconds, and at least this number of times in a row, are lost.
# A pause of a busy or stopped server is shorter; the user is to know within 15 seconds.
_LOST_S, _LEAST_TRIES = 7.0, 4


class ClusterWatch:
    """Asks the control service and the raylet of this machine every second whether they answer.

    Args:
        ray: The connected ``ray`` module.
    """

    def __init__(self, ray: Any) -> None:
        context = ray.get_runtime_context()
        self._servers = {"the control service": host_and_port(context.gcs_address)}
        self._raylet: socket.socket | None = None
        node_id = context.get_node_id()
        for node in ray.nodes():
            if node["NodeID"] == node_id:
                self._servers["the raylet of this machine"] = node["NodeManagerAddress"], int(node["NodeManagerPort"])
                self._raylet = _connected(node.get("RayletSocketName", ""))
        self._lost = ""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="distnum-watch").start()

    def check(self) -> None:
        """Raise an error if the cluster is lost. Takes microseconds.

        Raises:
            LostError: The cluster is lost.
        """
        if not self._lost and self._raylet_has_ended():
            self._lost = "the raylet of this machine has ended"
        if self._lost:
            raise LostError(f"The Ray cluster is lost: {self._lost}.")

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._raylet is not None:
            self._raylet.close()
            self._raylet = None

    def _raylet_has_ended(self) -> bool:
        """Whether the raylet has closed the connection that is only kept for this purpose."""
        if self._raylet is None:
            return False
        if not hasattr(select, "poll"):
            return bool(select.select([self._raylet], [], [], 0)[0])
        poll = select.poll()
        poll.register(self._raylet, select.POLLIN)
        return bool(poll.poll(0))

    def _watch(self) -> None:
        since, n_tries = monotonic(), 0
        while not self._closed.wait(_LOOK_S):
            began = monotonic()
            silent = [name for name, server in self._servers.items() if server is not None and not _answers(server)]
            if not silent:
                n_tries = 0
                continue
            if n_tries == 0:
                since = began
            n_tries += 1
            if n_tries >= _LEAST_TRIES and monotonic() - since > _LOST_S:
                self._lost = f"{silent[0]} has not answered for {monotonic() - since:.0f} s"
                return


def _answers(server: tuple[str, int]) -> bool:
    """Whether a gRPC server answers; with TLS, whether one listens."""
    try:
        with socket.create_connection(server, timeout=_ANSWER_TIMEOUT_S) as connection:
            return os.environ.get("RAY_USE_TLS", "0") == "1" or not not_grpc(connection)
    except OSError:
        return False


def _connected(path: str) -> socket.socket | None:
    """A connection to a local socket; None if it cannot be made."""
    if not path or not hasattr(socket, "AF_UNIX"):
        return None
    with contextlib.suppress(OSError):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection
    return None
