"""Connecting to the dashboard of a Ray cluster: address, token, certificates, timeouts."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distnum.common.errors import InputError

__all__ = ["causes", "check_certificates", "check_http", "client_class", "no_other_address", "read_token"]

_CONNECT_TIMEOUT_S, _UPLOAD_TIMEOUT_S, _ANSWER_TIMEOUT_S = 10.0, 3600.0, 120.0


def client_class() -> Any:
    """Ray's client, which by itself would wait for ever for a head that has gone without a word."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, data: Any = None, **options: Any) -> Any:
            # What is sent counts as connecting.
            connect_s = _CONNECT_TIMEOUT_S if data is None else _UPLOAD_TIMEOUT_S
            options.setdefault("timeout", (connect_s, _ANSWER_TIMEOUT_S))
            return super()._do_request(*arguments, data=data, **options)

    return Client


@contextmanager
def no_other_address() -> Iterator[None]:
    """Ray takes an address in the environment before the one that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def check_http(address: str) -> None:
    """Refuse what is no address of a dashboard, or where nothing listens."""
    wanted = "it must be http://HEAD:8265, the address of the cluster's dashboard"
    if "@" in address:
        raise InputError("address holds a user name or password; give a token with --token-file instead.")
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise InputError(f"address is {address!r}; {wanted}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"address is {address!r}; {wanted}.")
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"address is {address!r}, where nothing listens ({reason}); {wanted}.") from None


def read_token(file: Path | None) -> str:
    """The cluster's token, from where Ray would look for it, or the file given; empty if there is none."""
    if file is None:
        if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
            if not (token.isascii() and token.isprintable()):
                raise InputError("RAY_AUTH_TOKEN holds no token in one line.")
            return token
        if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
            file = Path(named)
        elif os.environ.get("RAY_AUTH_MODE") == "token" and Path("~/.ray/auth_token").expanduser().exists():
            file = Path("~/.ray/auth_token").expanduser()
        else:
            return ""
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"token_file is {str(file)!r}, which cannot be read: {reason}.") from None
    if not token or not token.isprintable():
        raise InputError(f"token_file is {str(file)!r}, which holds no token in one line.")
    return token


def check_certificates(file: Path) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise InputError(f"ca_file is {str(file)!r}, which holds no certificate (PEM).") from None
    except OSError as error:
        reason = "is not found" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"ca_file is {str(file)!r}, which {reason}; it must be a file of certificates.") from None


def causes(error: BaseException | None) -> str:
    """What an error says, and those that have led to it."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)
