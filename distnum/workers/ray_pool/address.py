"""Checks the address of a Ray cluster before Ray tries to connect to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from distnum.common.checks import host_and_port
from distnum.common.errors import InputError

__all__ = ["check_address", "has_token", "unreachable"]

_CONNECT_TIMEOUT_S = 10.0


def has_token() -> bool:
    """Whether a token exists in one of the locations where Ray looks for it."""
    named = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().exists()


def check_address(address: str) -> None:
    """Refuse an address where no Ray head listens, which Ray would try to reach for minutes.

    Raises:
        InputError: The address is malformed, or no Ray head listens there.
    """
    if address in ("auto", "local"):
        return
    target = host_and_port(address)
    if target is None:
        raise InputError(f"address is {address!r}; it must be HOST:PORT of a Ray cluster's head, or auto.")
    try:
        with socket.create_connection(target, timeout=_CONNECT_TIMEOUT_S) as connection:
            problem = "" if os.environ.get("RAY_USE_TLS", "0") == "1" else _not_grpc(connection)
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise unreachable(address, problem)


def _not_grpc(connection: socket.socket) -> str:
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
