"""A Ray session: connected to, or started on this machine and ended with its last user."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from distnum.common.cleanup import start_cleanup
from distnum.common.errors import InputError, TrainingError
from distnum.workers.ray_pool.address import check_address, has_token, unreachable
from distnum.workers.ray_pool.ray_module import frequent_looks_for_the_node, initialised, ray_module

__all__ = ["ray_session"]

# Size of the object store of a session of our own: it holds data sets and, for many workers, parameters.
_STORE_BYTES = 512 * 2**20
# Results up to this size are returned inside the replies of such a session.
_INLINE_BYTES = 2_000_000
# Memory of a worker process, at least.
_WORKER_BYTES = 100 * 2**20


@dataclass
class _OwnSession:
    """The session that this process has started, and the number of its users."""

    folder: Path
    n_users: int = 0
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_own: _OwnSession | None = None


@contextlib.contextmanager
def ray_session(
    address: str | None, n_cpus: int, n_workers: int, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[tuple[Any, Path | None]]:
    """The connected ``ray`` module, and the folder of a session that this process has started.

    Such a session ends with the last of its users. A session that was begun in this process
    without this function is used as it is.

    Args:
        address: Address of a running cluster; None takes that of ``RAY_ADDRESS``, or starts a
            session on this machine.
        n_cpus, n_workers: What a new session must have room for.
        meanwhile: Called once, where possible while Ray starts.

    Raises:
        InputError: The cluster cannot be reached, or this machine cannot hold the workers.
        TrainingError: Ray does not start.
    """
    global _own
    if address is not None:
        check_address(address)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and _own is None:
        meanwhile()
        yield ray, None
        return
    if _own is None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        if address is not None:
            with _connected(address, meanwhile) as ray:
                yield ray, None
            return
        _own = _started(n_cpus, n_workers, meanwhile)
    else:
        meanwhile()
    own = _own
    own.n_users += 1
    try:
        yield sys.modules["ray"], own.folder
    finally:
        own.n_users -= 1
        if own.n_users == 0:
            _own = None
            own.stack.close()


@contextlib.contextmanager
def _connected(address: str, meanwhile: Callable[[], object]) -> Iterator[Any]:
    """The ``ray`` module, connected to a running cluster."""
    check_address(address)
    environment = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # attempts to reach the head; the name is historic
    if has_token():
        environment["RAY_AUTH_MODE"] = "token"  # a head may ask for one; Ray sends none by default
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment))
        options = {"address": address}
        stack.enter_context(initialised(ray, options, {}, meanwhile, partial(unreachable, address)))
        yield ray


def _started(n_cpus: int, n_workers: int, meanwhile: Callable[[], object]) -> _OwnSession:
    """Start a session on this machine: closed to other users, with workers at normal priority."""
    _check_memory(n_workers)
    environment = {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
    # Listen on the loopback address alone; the name is historic.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    environment["RAY_max_direct_call_object_size"] = str(_INLINE_BYTES)
    # Prevents Ray's warning of more workers than cores, which the user has asked for.
    environment["RAY_worker_maximum_startup_concurrency"] = str(max(n_workers, os.cpu_count() or 1))
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment))
        folder, mark = stack.enter_context(_watched_folder())
        options: dict[str, Any] = {"address": "local", "num_cpus": max(n_cpus, os.cpu_count() or 1)}
        options |= {"object_store_memory": _STORE_BYTES}
        options |= {"include_dashboard": False, "_temp_dir": str(folder)}

        def failure(reason: str) -> TrainingError:
            return TrainingError(f"Ray does not start on this machine: {reason}.")

        with frequent_looks_for_the_node():
            stack.enter_context(initialised(ray, options, mark, meanwhile, failure))
        return _OwnSession(folder, stack=stack.pop_all())
    raise AssertionError("unreachable")  # an exit stack swallows nothing


@contextlib.contextmanager
def _watched_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder for the session's files, and a mark for its processes.

    A process of its own removes both if this process is killed.
    """
    name, value = "DISTNUM_SESSION", uuid4().hex
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    # Paths of sockets below it may have 107 bytes.
    base = base if len(base) < 30 else "/tmp"
    try:
        folder = tempfile.mkdtemp(prefix="distnum-", dir=base)
    except OSError as error:
        raise TrainingError(
            f"Ray needs a folder for its files, but none can be made in {base!r}: {error.strerror}. "
            "Set TMPDIR to a folder with a short name, or compute without Ray: --workers 0."
        ) from None
    cleanup = start_cleanup(f"{name}={value}", folder)
    try:
        yield Path(folder), {name: value}
    finally:
        if cleanup is not None:
            cleanup.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _check_memory(n_workers: int) -> None:
    """Refuse more workers than fit into this machine's free memory."""
    import psutil

    most = max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))
    if n_workers > most:
        raise InputError(
            f"workers is {n_workers:,}, but this machine's free memory has room for about {most:,} worker processes; "
            "it must not be more."
        )
