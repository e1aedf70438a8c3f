"""The ``ray`` module: imported, initialised and shut down, with workarounds for its start.

Some of them use private parts of Ray. Where those have changed, Ray starts as it does by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

from distnum.common.text import first_line
from distnum.workers.ray_pool.abandoning import C_LIBRARY, abandon
from distnum.workers.ray_pool.streams import logged_messages, usable_streams

__all__ = [
    "Connection",
    "connection_of",
    "frequent_looks_for_the_node",
    "initialised",
    "path_options",
    "ray_module",
    "shutdown_awaited",
]

Connection = tuple[str, str]
"""What tells one connection to Ray from a later one: ids of the node and of the job."""

_NODE_TIMEOUT_S, _LOOK_S = 5.0, 0.02

_SHUTDOWN_S = 3.0  # it usually takes 1.5 seconds


def connection_of(ray: Any) -> Connection | None:
    """The present connection of this process to Ray; None if there is none."""
    # Another thread may be importing Ray now.
    if not getattr(ray, "is_initialized", bool)():
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


@contextlib.contextmanager
def ray_module(defaults: dict[str, str], required: Mapping[str, str] | None = None) -> Iterator[Any]:
    """The ``ray`` module, imported with these environment variables, which hold inside the context.

    Args:
        defaults: Variables that keep the values that the user has given them.
        required: Variables that do not.
    """
    imported = "ray" in sys.modules
    defaults = defaults | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment = {name: value for name, value in defaults.items() if name not in os.environ} | dict(required or {})
    try:
        with _environment(environment), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
            import ray

            if imported and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in environment:
                with contextlib.suppress(KeyError):  # the user imported Ray earlier, with another value
                    setattr(sys.modules["ray._private.ray_constants"], "ENABLE_RAY_CLUSTER", False)  # noqa: B010
            yield ray
    finally:
        if connection_of(sys.modules.get("ray")) is None:
            _read_environment()  # that of the user again, for sessions of the user's own


def _read_environment() -> None:
    """Let Ray's core read its settings and its token from the environment again; it keeps what it has read."""
    with contextlib.suppress(KeyError, AttributeError):
        core = sys.modules["ray._raylet"]
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def path_options(ray: Any) -> dict[str, Any]:
    """Options of ``ray.init`` that keep the working directory out of workers' import path if it is not in this one's.

    Ray would put it first: workers would import what lies there instead of the installed packages.
    """
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv else ""
    try:
        if {"", os.getcwd()} & set(sys.path):
            return {}

        class PathOfTheDriver(ray.job_config.JobConfig):  # type: ignore[misc]
            def _runtime_env_has_working_dir(self) -> bool:
                return True  # with which Ray adds nothing

        return {"job_config": PathOfTheDriver(_py_driver_sys_path=[script] if script in sys.path else [])}
    except (OSError, AttributeError, TypeError):  # the folder is removed, or Ray has changed
        return {}


@contextlib.contextmanager
def initialised(
    ray: Any,
    options: dict[str, Any],
    mark: Mapping[str, str | None],
    meanwhile: Callable[[], object],
    failure: Callable[[str], Exception],
) -> Iterator[Connection]:
    """Call ``ray.init`` with these options, and ``ray.shutdown`` at the end; the connection to Ray.

    Ray's processes, and no others, inherit the environment variables ``mark``; None removes a variable. Ray
    starts on a thread: its own code would swallow a ``KeyboardInterrupt`` or change it into another
    exception. Here the interrupt is raised once Ray has started; a second one is raised at once.
    ``meanwhile`` is called on another thread while Ray starts; it should run no code of the user, which
    would see Ray's environment variables. Its error is raised unchanged. If Ray does not start, the error
    that ``failure`` makes of its message is raised.
    """
    errors: list[BaseException] = []
    connection: Connection | None = None
    started, ended = threading.Event(), threading.Event()
    pid = os.getpid()
    messages = contextlib.ExitStack()
    messages.enter_context(logged_messages())

    def session() -> None:
        try:
            with _environment(mark), _children_apart(), _kept_signal_handler(), usable_streams():
                _read_environment()
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
        if errors and isinstance(
            errors[0], (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError)
        ):
            raise failure(first_line(errors[0])) from errors[0]
        if errors:
            raise errors[0]
        connection = connection_of(ray)
        assert connection is not None
        loading.result()
        yield connection
    finally:
        executor.shutdown(wait=False)
        # Leave what another process has started, of which this one is a copy, and what the user has started since.
        if started.is_set() and os.getpid() == pid and (connection is None or connection_of(ray) == connection):
            _shut_down(ray)
        messages.close()
        ended.set()


_shutting_down: threading.Thread | None = None


def _shut_down(ray: Any) -> None:
    """Call ``ray.shutdown``; go on without its end where that takes long, as it does when servers do not answer."""
    global _shutting_down
    _shutting_down = threading.Thread(target=ray.shutdown, daemon=True, name="distnum-ray-shutdown")
    _shutting_down.start()
    _shutting_down.join(_SHUTDOWN_S)


@contextlib.contextmanager
def shutdown_awaited(ray: Any, timeout_s: float) -> Iterator[None]:
    """Wait at the end for what ``initialised`` has left of Ray's shutdown."""
    try:
        yield
    finally:
        if _shutting_down is not None:
            _shutting_down.join(timeout_s)
            if _shutting_down.is_alive():
                abandon(ray)  # at the end of the program, it would wait for its servers again


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


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's core replaces it with one that prints a stack trace.

    By the C library, as Python restores handlers in the main thread only.
    """
    sigaction = getattr(C_LIBRARY, "sigaction", None)
    handler = ctypes.create_string_buffer(1024)  # more than the size of a struct sigaction
    if sigaction is not None:
        sigaction(signal.SIGTERM, None, handler)
    try:
        yield
    finally:
        if sigaction is not None:
            sigaction(signal.SIGTERM, handler, None)


_starting_thread: int | None = None


@contextlib.contextmanager
def _children_apart() -> Iterator[None]:
    """Start processes from this thread in process groups of their own, with files that only this user can open.

    A shell or ``timeout`` sends signals to a whole group. They would end Ray's servers before
    the driver, which then could not end cleanly.
    """
    global _starting_thread
    _starting_thread = threading.get_ident()
    try:
        yield
    finally:
        _starting_thread = None


def _after_fork() -> None:
    if _starting_thread == threading.get_ident():
        os.setpgid(0, 0)
        os.umask(0o077)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables inside a context, or remove those with the value None."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
