"""A Ray session: connected to, or started here and ended here. The only module that imports ray."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from distnum.errors import InputError, TrainingError
from distnum.reaper import start_reaper

__all__ = ["INLINE_BYTES", "first_line", "ray_session"]

_CONNECT_TIMEOUT_S = 10.0
# Of the object store of a session started here: data sets and, with many workers, parameters.
_STORE_BYTES = 512 * 2**20
# Of a worker process, at least.
_WORKER_BYTES = 100 * 2**20
# Arguments and results up to this size travel inside the calls of such a session.
INLINE_BYTES = 2_000_000


@contextlib.contextmanager
def ray_session(address: str | None, n_cpus: int, n_workers: int) -> Iterator[tuple[Any, bool]]:
    """The ray module, connected, and whether the session was started here; then it also ends here."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        # Our own session: nobody else may connect to it, and its workers run at full priority.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
        environment["RAY_max_direct_call_object_size"] = str(INLINE_BYTES)
        _check_memory(n_workers)
    else:
        _check_address(address)
        environment["RAY_NUM_REDIS_GET_RETRIES"] = "1"  # its name is historic: attempts at the head
    with _environment(environment), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        import ray

        if ray.is_initialized():
            yield ray, False
            return
        before = _descendants()
        handler = signal.getsignal(signal.SIGTERM)
        quiet = {"logging_level": "error", "log_to_driver": False, "configure_logging": True}
        try:
            if address is None:
                n_cpus = max(n_cpus, os.cpu_count() or 1)
                ray.init(num_cpus=n_cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError) as error:
            if address is None:
                raise TrainingError(f"Ray does not start on this machine: {first_line(error)}") from error
            raise _unreachable(address, first_line(error)) from error
        except BaseException:
            # Interrupted half-way: what has been started would outlive us.
            started = _descendants() - before
            ray.shutdown()
            for process in started:
                with contextlib.suppress(Exception):
                    process.kill()
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in place
        reaper = start_reaper([process.pid for process in _descendants() - before]) if address is None else None
        try:
            yield ray, address is None
        finally:
            ray.shutdown()
            if reaper is not None:
                reaper.communicate()


def _check_memory(n_workers: int) -> None:
    """Refuse more workers than this machine can hold, before they bring it down."""
    import psutil

    most = max(1, int(psutil.virtual_memory().available // _WORKER_BYTES))
    if n_workers > most:
        raise InputError(
            f"workers is {n_workers:,}, but this machine's free memory has room for about {most:,} worker processes; "
            "it must not be more."
        )


def _check_address(address: str) -> None:
    """Refuse at once what Ray would try to reach for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"address is {address!r}; it must be HOST:PORT of a Ray cluster's head, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None


def _unreachable(address: str, reason: str) -> InputError:
    return InputError(
        f"address is {address!r}, where no Ray cluster can be reached ({reason.rstrip('.')}); "
        "it must be HOST:PORT of a cluster's head, or auto for one on this machine."
    )


def _descendants() -> set[Any]:
    import psutil

    return set(psutil.Process().children(recursive=True))


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


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
