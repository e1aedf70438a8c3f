"""Which Ray cluster to connect to, and whether one listens there, before Ray tries to connect to it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from distnum.common.checks import host_and_port
from distnum.common.errors import InputError

__all__ = ["check_address", "cluster_address", "has_token", "not_grpc", "same_cluster", "unreachable"]

_CONNECT_TIMEOUT_S = 10.0


def cluster_address(address: str | None) -> str | None:
    """The ``HOST:PORT`` of the cluster to connect to; None for a session of our own.

    Args:
        address: As the user gave it: HOST:PORT, ``auto`` or ``local``; None takes that of ``RAY_ADDRESS``, if set.

    Raises:
        InputError: The address is malformed, ``auto`` finds no cluster, or no Ray head listens there.
    """
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    if address in (None, "local"):
        return None
    if address == "auto":
        address = _running_cluster()
    check_address(address)
    return address


def _running_cluster() -> str:
    """The cluster of a Ray node that this user runs on this machine.

    Ray itself would also take a node of another user, or the address in ``/tmp/ray/ray_current_cluster``, which
    everybody can write. Another user could so receive this user's token.
    """
    import psutil

    addresses = set()
    user = psutil.Process().username()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            # The program is checked too: somebody else chooses the arguments of a sudo that runs as root.
            if process.username() == user and Path(process.exe()).stem == "raylet":
                addresses |= _addresses(process)
    if len(addresses) > 1:
        raise InputError(
            f"address is 'auto', but several Ray clusters of this user run here: {', '.join(sorted(addresses))}; "
            "give the address of one of them, or set RAY_ADDRESS."
        )
    if not addresses:
        raise InputError(
            "address is 'auto', but RAY_ADDRESS is not set and no Ray node of this user runs on this machine; "
            "it must be HOST:PORT of a cluster's head."
        )
    return addresses.pop()


def _addresses(raylet: Any) -> set[str]:
    """Address of a node's cluster, as a set; empty for a session that distnum has started for one training."""
    if "DISTNUM_SESSION" in raylet.environ():
        return set()
    flag = "--gcs-address="
    return {argument.removeprefix(flag) for argument in raylet.cmdline() if argument.startswith(flag)}


def same_cluster(address: str, connected: str) -> bool:
    """Whether two ``HOST:PORT`` can be the same server; a loopback address and another one of this machine can."""
    here, there = host_and_port(address), host_and_port(connected)
    if here is None or there is None or here[1] != there[1]:
        return False
    hosts, others = _ip_addresses(here[0]), _ip_addresses(there[0])
    return bool(hosts & others) or any(one.startswith("127.") or one == "::1" for one in hosts | others)


def _ip_addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return {host}


def has_token() -> bool:
    """Whether a token exists in one of the locations where Ray looks for it."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return True
    try:
        return Path("~/.ray/auth_token").expanduser().exists()
    except (OSError, RuntimeError):  # the home folder is closed or unknown
        return False


def check_address(address: str) -> None:
    """Refuse an address where no Ray head listens, which Ray would try to reach for minutes.

    Raises:
        InputError: The address is malformed, or no Ray head listens there.
    """
    target = host_and_port(address)
    if target is None:
        raise InputError(f"address is {address!r}; it must be HOST:PORT of a Ray cluster's head, or auto.")
    try:
        with socket.create_connection(target, timeout=_CONNECT_TIMEOUT_S) as connection:
            problem = "" if os.environ.get("RAY_USE_TLS", "0") == "1" else not_grpc(connection)
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise unreachable(address, problem)


def not_grpc(connection: socket.socket) -> str:
    """Why the server is no gRPC server, as a Ray head is; an empty text if it is one.

    Both sides of HTTP/2 begin with a frame of settings, whose fourth byte is 4 (RFC 9113, section 3.4).
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    begun = b""
    while len(begun) < 4:
        more = connection.recv(9)
        if not more:
            break
        begun += more
    return "" if begun[3:4] == b"\x04" else "a server that is not Ray listens there"


def unreachable(address: str, reason: str) -> InputError:
    """The error for an address where no cluster can be reached."""
    return InputError(
        f"address is {address!r}, where no Ray cluster can be reached ({reason.rstrip('.')}); "
        "it must be HOST:PORT of a cluster's head, or auto for one on this machine. If the cluster asks for a token, "
        "set RAY_AUTH_TOKEN."
    )
