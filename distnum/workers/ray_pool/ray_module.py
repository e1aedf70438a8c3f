"""The ``ray`` module: imported, initialised and shut down, with workarounds for its start.

Some of them use private parts of Ray. Where those have changed, Ray starts as it does by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

from distnum.common.text import first_line

__all__ = ["frequent_looks_for_the_node", "initialised", "ray_module"]

_NODE_TIMEOUT_S, _LOOK_S = 5.0, 0.02


@contextlib.contextmanager
def ray_module(environment: dict[str, str]) -> Iterator[Any]:
    """The ``ray`` module, imported with these environment variables, which hold inside the context."""
    imported = "ray" in sys.modules
    environment = environment | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    with _environment(environment), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        import ray

        if imported:
            # The user imported Ray earlier, with other variables: make it read them again.
            with contextlib.suppress(KeyError, AttributeError):
                sys.modules["ray._raylet"].Config.initialize("")
                if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in environment:
                    setattr(sys.modules["ray._private.ray_constants"], "ENABLE_RAY_CLUSTER", False)  # noqa: B010
        yield ray


@contextlib.contextmanager
def initialised(
    ray: Any,
    options: dict[str, Any],
    mark: dict[str, str],
    meanwhile: Callable[[], object],
    failure: Callable[[str], Exception],
) -> Iterator[None]:
    """Call ``ray.init`` with these options, and ``ray.shutdown`` at the end.

    Ray's processes, and no others, inherit the environment variable ``mark``. Ray starts on a
    thread: its own code would swallow a ``KeyboardInterrupt`` or change it into another
    exception. Here the interrupt is raised once Ray has started; a second one is raised at once.
    ``meanwhile`` is called on another thread while Ray starts; it should run no code of the user, which
    would see Ray's environment variables. Its error is raised unchanged. If Ray does not start, the error
    that ``failure`` makes of its message is raised.
    """
    errors: list[BaseException] = []
    started, ended = threading.Event(), threading.Event()

    def session() -> None:
        try:
            with _environment(mark), _children_in_own_groups():
                ray.init(logging_level="error", log_to_driver=False, configure_logging=True, **options)
        except BaseException as error:
            errors.append(error)
        started.set()
        ended.wait()  # Ray's servers are killed when the thread that has started them ends

    # What runs meanwhile has a thread of its own: an interrupt in the middle of an import would leave Python's
    # import lock taken, and Ray, which imports at the same time, would wait for it forever.
    executor = ThreadPoolExecutor(1)
    threading.Thread(target=session, daemon=True).start()
    try:
        try:
            loading = executor.submit(meanwhile)
            started.wait()
        except BaseException:
            started.wait()
            raise
        finally:
            _restore_signals()
        if errors and isinstance(
            errors[0], (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError)
        ):
            raise failure(first_line(errors[0])) from errors[0]
        if errors:
            raise errors[0]
        loading.result()
        yield
    finally:
        executor.shutdown(wait=False)
        if started.is_set():
            ray.shutdown()
        ended.set()


@contextlib.contextmanager
def frequent_looks_for_the_node() -> Iterator[None]:
    """Let Ray look for its new node every 20 ms, not every second: the node is there after half a second."""
    try:
        services: Any = importlib.import_module("ray._private.services")
        client_class, get_node = importlib.import_module("ray._raylet").GcsClient, services.get_node
    except (ImportError, AttributeError):
        yield
        return

    def get_node_when_it_is_there(gcs_address: str, node_id: str) -> Any:
        deadline = monotonic() + _NODE_TIMEOUT_S
        with contextlib.suppress(Exception):  # Ray asks again, and reports what is wrong
            client = client_class(address=gcs_address)
            while node_id not in [key.hex() for key in client.get_all_node_info(timeout=_NODE_TIMEOUT_S)]:
                if monotonic() > deadline:
                    break
                sleep(_LOOK_S)
        return get_node(gcs_address, node_id)

    services.get_node = get_node_when_it_is_there
    try:
        yield
    finally:
        services.get_node = get_node


def _restore_signals() -> None:
    """Restore the Python handler of SIGTERM: Ray's core replaces it with one that prints a stack trace."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


_grouping = False


@contextlib.contextmanager
def _children_in_own_groups() -> Iterator[None]:
    """Start processes in process groups of their own.

    A shell or ``timeout`` sends signals to a whole group. They would end Ray's servers before
    the driver, which then could not end cleanly.
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


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside a context; variables that are set already keep their values."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
