"""The Ray session of this process: connected to, or started on this machine; shared, and ended with its last user.

Ray has one session per process. Several pools in one process therefore share it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from distnum.common.errors import InputError, TrainingError
from distnum.workers.ray_pool.abandoning import abandon
from distnum.workers.ray_pool.address import check_address, cluster_address, has_token, same_cluster, unreachable
from distnum.workers.ray_pool.folder import cleaned_up, session_folder
from distnum.workers.ray_pool.ray_module import (
    Connection,
    connection_of,
    frequent_looks_for_the_node,
    initialised,
    path_options,
    ray_module,
    shutdown_awaited,
)

__all__ = ["RaySession", "ray_session"]

# Size of the object store of a session of our own: it holds data sets and, for many workers, parameters.
_STORE_BYTES = 512 * 2**20
# Results up to this size are returned inside the replies of such a session.
_INLINE_BYTES = 2_000_000
# Size at which what a worker prints is continued in a new file; one older file is kept.
_LOG_BYTES = 10 * 2**20
# A session of the user's program answers within this time.
_ANSWER_S = 15.0
# Ray's shutdown takes five seconds once the servers have been killed.
_SHUTDOWN_S = 8.0
# Memory of a worker process, at least.
_WORKER_BYTES = 100 * 2**20


class RaySession(NamedTuple):
    """A session as its user sees it.

    Attributes:
        ray: The connected ``ray`` module.
        folder: Folder for sockets and mapped files, in a session that this process has started; None in others.
        shared: Whether such a session was in use already. Its CPUs are then taken.
    """

    ray: Any
    folder: Path | None = None
    shared: bool = False


@dataclass
class _Session:
    """A session that this process has begun, and the number of its users.

    Attributes:
        ray: The connected ``ray`` module.
        connection: Its connection; another one if the user's program has called ``ray.shutdown`` meanwhile.
        folder: Folder for what driver and workers share; None if the session is that of a cluster.
        stack: Ends the session.
    """

    ray: Any
    connection: Connection
    folder: Path | None
    stack: contextlib.ExitStack
    n_users: int = 0
    pid: int = field(default_factory=os.getpid)


_session: _Session | None = None
_lock = threading.Lock()
_used = _forked = False


def _after_fork() -> None:
    """Forget the session in a copy of this process, where none of Ray's threads runs."""
    global _session, _lock, _forked
    ray = sys.modules.get("ray")
    if _used or getattr(ray, "is_initialized", bool)():
        _forked = True
    if _used:
        abandon(ray)
    _session, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def ray_session(
    address: str | None, n_cpus: int, n_workers: int, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[RaySession]:
    """The Ray session of this process, begun if there is none.

    One that this process is using already is shared, and ends with the last of its users. One
    that was begun without this function is used as it is.

    Args:
        address: Address of a running cluster; None takes that of ``RAY_ADDRESS``, or starts a
            session on this machine.
        n_cpus, n_workers: What a new session must have room for.
        meanwhile: Called once, where possible while Ray starts.

    Raises:
        InputError: The cluster cannot be reached, this process is connected to another one, or this machine
            cannot hold the workers.
        TrainingError: Ray does not start.
    """
    if address not in (None, "auto", "local"):
        check_address(address)
    with _lock:
        ray = _users_own(address)
        session = None if ray is not None else _joined(address, n_cpus, n_workers, meanwhile)
        shared = session is None or session.n_users > 1
    try:
        if shared:
            meanwhile()
        yield RaySession(ray) if session is None else RaySession(session.ray, session.folder, shared)
    finally:
        if session is not None and session.pid == os.getpid():
            with _lock:
                _leave(session)


def _users_own(address: str | None) -> Any:
    """The ``ray`` module if the user's program has connected it; None otherwise."""
    if _forked:
        raise InputError(
            "workers cannot be used in this process: it is a copy (fork) of one that has used Ray. Start it by "
            "multiprocessing's method 'spawn', or compute without Ray: workers=0."
        )
    ray = sys.modules.get("ray")
    connection = connection_of(ray)
    if connection is None or (_session is not None and _session.connection == connection):
        return None
    _check_same(address, ray)
    asking = threading.Thread(target=_ask, args=(ray,), daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    if asking.is_alive():
        raise TrainingError(
            f"The Ray session that the program has begun has not answered for {_ANSWER_S:g} s. Its servers have been "
            "lost, or this process is a copy (fork) of the one that has begun it: then start it by multiprocessing's "
            "method 'spawn'."
        )
    return ray


def _ask(ray: Any) -> None:
    with contextlib.suppress(Exception):  # the pool will raise it again
        ray.nodes()


def _joined(address: str | None, n_cpus: int, n_workers: int, meanwhile: Callable[[], object]) -> _Session:
    """The session of this module, begun if there is none, with one user more."""
    global _session, _used
    if _session is not None and connection_of(_session.ray) != _session.connection:
        _session.stack.close()  # the user's program has shut Ray down
        _session = None
    if _session is None:
        target, _used = cluster_address(address), True
        _session = _started(n_cpus, n_workers, meanwhile) if target is None else _connected(target, meanwhile)
    else:
        _check_same(address, _session.ray, local=_session.folder is not None)
        if _session.folder is not None:
            _check_memory(n_workers)
    _session.n_users += 1
    return _session


def _leave(session: _Session) -> None:
    """Count one user less, and end the session with the last one."""
    global _session
    session.n_users -= 1
    if session.n_users == 0:
        if _session is session:
            _session = None
        session.stack.close()


def _check_same(address: str | None, ray: Any, local: bool | None = None) -> None:
    """Refuse an address other than that to which this process is connected."""
    if address in (None, "auto") or (address == "local" and local is not False):
        return
    connected = ray.get_runtime_context().gcs_address
    if not same_cluster(address, connected):
        raise InputError(
            f"address is {address!r}, but this process is using the Ray session at {connected}, and Ray has one "
            "session per process. End what uses that first (a training, a generator of steps, ray.init), or use "
            "another process."
        )


def _connected(address: str, meanwhile: Callable[[], object]) -> _Session:
    """Connect to a running cluster."""
    environment = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # attempts to reach the head; the name is historic
    if has_token():
        environment["RAY_AUTH_MODE"] = "token"  # a head may ask for one; Ray sends none by default
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment))
        stack.enter_context(shutdown_awaited(ray, 0))  # it waits for servers that do not answer
        options = {"address": address}
        connection = stack.enter_context(initialised(ray, options, {}, meanwhile, partial(unreachable, address)))
        return _Session(ray, connection, None, stack.pop_all())
    raise AssertionError("unreachable")  # an exit stack swallows nothing


def _started(n_cpus: int, n_workers: int, meanwhile: Callable[[], object]) -> _Session:
    """Start a session on this machine: closed to other users, with workers at normal priority."""
    _check_memory(n_workers)
    environment = {"RAY_worker_niceness": "0", "RAY_max_direct_call_object_size": str(_INLINE_BYTES)}
    # Prevents Ray's warning of more workers than cores, which the user has asked for.
    environment["RAY_worker_maximum_startup_concurrency"] = str(max(n_workers, os.cpu_count() or 1))
    # What a worker prints goes to two files in the session's folder, for the output and for errors.
    environment |= {"RAY_ROTATION_MAX_BYTES": str(_LOG_BYTES), "RAY_ROTATION_BACKUP_COUNT": "1"}
    # Whatever the user has set for other sessions: ask for a token, and listen on the loopback address alone (the
    # name is historic).
    required = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    name, value = "DISTNUM_SESSION", uuid4().hex
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment, required))
        # Outside the shutdown: until its end, the driver's part of Ray makes its folder again.
        folder = stack.enter_context(session_folder())
        stack.enter_context(shutdown_awaited(ray, _SHUTDOWN_S))
        stack.enter_context(cleaned_up(folder, f"{name}={value}"))
        mark = {name: value, "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": str(folder.token)}
        options: dict[str, Any] = {"address": "local", "num_cpus": max(n_cpus, os.cpu_count() or 1)}
        options |= {"object_store_memory": _STORE_BYTES}
        options |= {"include_dashboard": False, "_temp_dir": str(folder.ray)} | path_options(ray)

        def failure(reason: str) -> TrainingError:
            return TrainingError(f"Ray does not start on this machine: {reason}.")

        with frequent_looks_for_the_node():
            connection = stack.enter_context(initialised(ray, options, mark, meanwhile, failure))
        folder.check()
        return _Session(ray, connection, folder.shared, stack.pop_all())
    raise AssertionError("unreachable")  # an exit stack swallows nothing


def _check_memory(n_workers: int) -> None:
    """Refuse more workers than fit into this machine's free memory."""
    import psutil

    most = max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))
    if n_workers > most:
        raise InputError(
            f"workers is {n_workers:,}, but this machine's free memory has room for about {most:,} worker processes; "
            "it must not be more."
        )
