"""A Ray session: connected to, or started here and ended here. The only module that imports ray."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from distnum.common.cleanup import start_cleanup
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line
from distnum.workers.ray_pool.address import check_address, has_token, unreachable

__all__ = ["INLINE_BYTES", "ray_module", "ray_session"]

_NODE_TIMEOUT_S, _LOOK_S = 5.0, 0.02

# Of the object store of a session started here: data sets and, with many workers, parameters.
_STORE_BYTES = 512 * 2**20

# Of a worker process, at least.
_WORKER_BYTES = 100 * 2**20

# Results up to this size travel inside the answers in such a session.
INLINE_BYTES = 2_000_000


@dataclass
class _Own:
    """The session that was started here, and how many use it."""

    folder: Path
    n_users: int = 0
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_own: _Own | None = None


@contextlib.contextmanager
def ray_session(address: str | None, n_cpus: int, n_workers: int) -> Iterator[tuple[Any, Path | None]]:
    """The ray module, connected, and the folder of a session that was started here.

    Such a session ends with the last of its users; one that the process has begun otherwise is
    used as it is.

    Args:
        address: of a cluster that runs already; None takes the one of ``RAY_ADDRESS`` or
            starts a session here.
        n_cpus, n_workers: that a session started here must have room for.

    Raises:
        InputError: the cluster cannot be reached, or this machine cannot hold the workers.
        TrainingError: Ray does not start.
    """
    global _own
    if address is not None:
        check_address(address)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and _own is None:
        yield ray, None
        return
    if _own is None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        if address is not None:
            with _connected(address) as ray:
                yield ray, None
            return
        _own = _started(n_cpus, n_workers)
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
def _connected(address: str) -> Iterator[Any]:
    """The ray module, connected to a cluster that runs already."""
    check_address(address)
    environment = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # its name is historic: attempts at the head
    if has_token():
        environment["RAY_AUTH_MODE"] = "token"  # a head asks for one by default; Ray sends none by default
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment))
        try:
            stack.enter_context(_initialised(ray, {"address": address}, {}))
        except (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError) as error:
            raise unreachable(address, first_line(error)) from error
        yield ray


def _started(n_cpus: int, n_workers: int) -> _Own:
    """A session on this machine: nobody else may connect to it, and its workers run at full priority."""
    _check_memory(n_workers)
    environment = {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
    # Its name is historic: whether other machines are to reach this one. Else all of Ray
    # listens on the loopback address alone.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    environment["RAY_max_direct_call_object_size"] = str(INLINE_BYTES)
    # Else Ray warns of more workers than cores, which the user has asked for.
    environment["RAY_worker_maximum_startup_concurrency"] = str(max(n_workers, os.cpu_count() or 1))
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(ray_module(environment))
        folder, mark = stack.enter_context(_watched_folder())
        options: dict[str, Any] = {"address": "local", "num_cpus": max(n_cpus, os.cpu_count() or 1)}
        options |= {"object_store_memory": _STORE_BYTES}
        options |= {"include_dashboard": False, "_temp_dir": str(folder)}
        try:
            with _looking_often():
                stack.enter_context(_initialised(ray, options, mark))
        except (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError) as error:
            raise TrainingError(f"Ray does not start on this machine: {first_line(error)}.") from error
        return _Own(folder, stack=stack.pop_all())
    raise AssertionError("unreachable")  # an exit stack swallows nothing


@contextlib.contextmanager
def ray_module(environment: dict[str, str]) -> Iterator[Any]:
    """The ray module, imported where these settings hold."""
    imported = "ray" in sys.modules
    environment = environment | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    with _environment(environment), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        import ray

        if imported:
            # The user has imported it before: it has read its settings then, and must read them again.
            with contextlib.suppress(KeyError, AttributeError):  # private, and perhaps gone one day
                sys.modules["ray._raylet"].Config.initialize("")
                if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in environment:
                    setattr(sys.modules["ray._private.ray_constants"], "ENABLE_RAY_CLUSTER", False)  # noqa: B010
        yield ray


@contextlib.contextmanager
def _initialised(ray: Any, options: dict[str, Any], mark: dict[str, str]) -> Iterator[None]:
    """Ray from ``init`` to ``shutdown``; its processes, and no others, inherit the mark.

    It starts on a thread: Ray's own code would swallow an interruption, or turn it into
    another exception; here it is raised as soon as Ray has started. A second one is raised
    at once.
    """
    errors: list[BaseException] = []
    started, ended = threading.Event(), threading.Event()

    def session() -> None:
        try:
            with _environment(mark), _children_in_groups_of_their_own():
                ray.init(logging_level="error", log_to_driver=False, configure_logging=True, **options)
        except BaseException as error:
            errors.append(error)
        started.set()
        ended.wait()  # Ray's servers are killed when the thread ends that has started them

    threading.Thread(target=session, daemon=True).start()
    try:
        try:
            started.wait()
        except BaseException:
            started.wait()
            raise
        _take_signals_back()
        if errors:
            raise errors[0]
        yield
    finally:
        if started.is_set():
            ray.shutdown()
        ended.set()


@contextlib.contextmanager
def _looking_often() -> Iterator[None]:
    """Ray looks once a second for the node that it starts, which is there after half a second: look more often.

    What this uses of Ray is private, and perhaps gone one day: then Ray waits as it does.
    """
    try:
        services: Any = importlib.import_module("ray._private.services")
        client_class, get_node = importlib.import_module("ray._raylet").GcsClient, services.get_node
    except (ImportError, AttributeError):
        yield
        return

    def once_it_is_there(gcs_address: str, node_id: str) -> Any:
        deadline = monotonic() + _NODE_TIMEOUT_S
        with contextlib.suppress(Exception):  # Ray asks again, and says what is wrong
            client = client_class(address=gcs_address)
            while node_id not in [key.hex() for key in client.get_all_node_info(timeout=_NODE_TIMEOUT_S)]:
                if monotonic() > deadline:
                    break
                sleep(_LOOK_S)
        return get_node(gcs_address, node_id)

    services.get_node = once_it_is_there
    try:
        yield
    finally:
        services.get_node = get_node


def _take_signals_back() -> None:
    """Give SIGTERM back to who has handled it before: Ray's core prints a page for it."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _watched_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder for the files of a session of our own, and a mark for its processes, which are watched."""
    name, value = "DISTNUM_SESSION", uuid4().hex
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    # Names of sockets below it may have 107 bytes in all.
    base = base if len(base) < 30 else "/tmp"
    try:
        folder = tempfile.mkdtemp(prefix="distnum-", dir=base)
    except OSError as error:
        raise TrainingError(
            f"Ray needs a folder for its files, but none can be made in {base!r}: {error.strerror}. "
            "Set TMPDIR to a folder with a short name, or compute without Ray: --workers 0."
        ) from None
    reaper = start_cleanup(f"{name}={value}", folder)
    try:
        yield Path(folder), {name: value}
    finally:
        if reaper is not None:
            reaper.communicate()
        shutil.rmtree(folder, ignore_errors=True)


_grouping = False


@contextlib.contextmanager
def _children_in_groups_of_their_own() -> Iterator[None]:
    """Processes started meanwhile do not get the signals of this process's group.

    What a shell or ``timeout`` sends to the whole group would end Ray's servers under the
    driver, which then could not end in good order.
    """
    global _grouping
    _grouping = True
    try:
        yield
    finally:
        _grouping = False


def _after_fork() -> None:
    if _grouping:
        os.setpgid(0, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _check_memory(n_workers: int) -> None:
    """Refuse more workers than this machine can hold, before they bring it down."""
    import psutil

    most = max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))
    if n_workers > most:
        raise InputError(
            f"workers is {n_workers:,}, but this machine's free memory has room for about {most:,} worker processes; "
            "it must not be more."
        )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while; one that the user has set stays as it is."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
