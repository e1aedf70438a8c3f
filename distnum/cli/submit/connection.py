"""Ray's job client for a cluster's dashboard: address, token, certificates, timeouts, errors in one line."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from distnum.cli.submit.transfer import MOST_PACKED
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line
from distnum.workers.ray_pool.ray_module import ray_module

__all__ = ["Connection"]

_CONNECT_TIMEOUT_S, _UPLOAD_TIMEOUT_S, _ANSWER_TIMEOUT_S = 10.0, 3600.0, 120.0

# A packed run in base64, in lines that JSON escapes.
_LARGEST_ANSWER = MOST_PACKED * 3 // 2

# Parts of Ray that log how they pack and connect.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class Connection:
    """Ray's job client, connected to the dashboard of a cluster.

    Args:
        address: ``http://HEAD:8265`` or ``https://...``.
        token_file: File with the cluster's token. By default the token is ``RAY_AUTH_TOKEN``, or that in the
            file ``RAY_AUTH_TOKEN_PATH``, or with ``RAY_AUTH_MODE=token`` that in Ray's own file.
        ca_file: Certificates to trust for ``https``.

    Attributes:
        address: As given.
        client: Ray's ``JobSubmissionClient``; call it within ``clear_errors``.

    Raises:
        InputError: No Ray cluster answers at the address, or the token or a file cannot be used.
    """

    def __init__(self, address: str, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        self.address = address
        _check_address(address)
        self._token = _read_token(token_file)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if ca_file is not None:
            _check_certificates(ca_file)
        verify: bool | str = True if ca_file is None else str(ca_file)
        with ray_module({}), self.clear_errors():
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.ERROR)
            with _no_address_in_environment():
                self.client = _client_class()(address, headers=headers, verify=verify)
            self.client.list_jobs()  # fails if the token is wrong

    def job_info(self, number: str) -> Any:
        """Return Ray's record of a job.

        Raises:
            InputError: The cluster has no such job.
            TrainingError: The cluster reports another error.
        """
        try:
            with self.clear_errors():
                return self.client.get_job_info(number)
        except TrainingError as error:
            if "404" in str(error) or "does not exist" in str(error):
                raise InputError(f"job is {number!r}, which the cluster does not know; see --list.") from None
            raise

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Raise errors of Ray and the network as ``InputError`` or ``TrainingError``: one line, without the token."""
        try:
            yield
        except (InputError, TrainingError):
            raise
        except Exception as error:
            text = first_line(error)
            if self._token:
                text = text.replace(self._token, "...")
            if "ray[default]" in text:
                raise InputError("submit needs Ray's job client; install it: pip install 'distnum[cluster]'.") from None
            if type(error).__name__ == "AuthenticationError" or "status code 401" in text or "status code 403" in text:
                raise InputError(
                    f"address is {self.address!r}, a cluster that asks for another token; give it with --token-file, "
                    "or set RAY_AUTH_TOKEN."
                ) from None
            if "CERTIFICATE_VERIFY_FAILED" in _messages(error):
                raise InputError(
                    f"address is {self.address!r}, whose certificate is not trusted here; give a file of certificates "
                    "to trust with --ca-file."
                ) from None
            if isinstance(error, OSError):
                raise InputError(
                    f"address is {self.address!r}, where no Ray cluster answers ({text}); it must be http://HEAD:8265, "
                    "the address of a cluster's dashboard."
                ) from None
            if isinstance(error, (RuntimeError, ValueError, KeyError, TypeError)):
                raise TrainingError(f"The cluster at {self.address} reports: {text}") from error
            raise


def _client_class() -> Any:
    """Ray's client with timeouts; without them it would wait for ever for a head that is unreachable."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE as LARGEST_UPLOAD
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, data: Any = None, **options: Any) -> Any:
            if data is not None and len(data) > LARGEST_UPLOAD:
                raise InputError(
                    f"script is in a folder of {len(data) / 2**20:.0f} MiB as packed, but Ray takes "
                    f"{LARGEST_UPLOAD >> 20} MiB at most; list in its .rayignore what the script does not need."
                )
            # An upload counts as connecting.
            connect_s = _CONNECT_TIMEOUT_S if data is None else _UPLOAD_TIMEOUT_S
            options.setdefault("timeout", (connect_s, _ANSWER_TIMEOUT_S))
            options |= {"stream": True, "hooks": {"response": _read_bounded}}
            return super()._do_request(*arguments, data=data, **options)

    return Client


def _read_bounded(response: Any, **options: Any) -> None:
    """Read an answer into memory as ``requests`` itself does, but no more than a packed run can have."""
    content = bytearray()
    for piece in response.iter_content(2**16):
        content += piece
        if len(content) > _LARGEST_ANSWER:
            response.close()
            raise TrainingError(f"The cluster's answer has more than {_LARGEST_ANSWER >> 20} MiB; it is refused.")
    response._content = bytes(content)


@contextmanager
def _no_address_in_environment() -> Iterator[None]:
    """Hide the addresses in the environment, which Ray would prefer to the one that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _check_address(address: str) -> None:
    """Raise ``InputError`` if this is no URL of a dashboard, or nothing listens there."""
    wanted = "it must be http://HEAD:8265, the address of the cluster's dashboard"
    if set("@?#\\") & set(unquote(address)):
        raise InputError(
            "address holds a user name or password, a query or a fragment; it must be http://HEAD:8265. Give a token "
            "with --token-file."
        )
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


def _read_token(file: Path | None) -> str:
    """The token in the file, or by default where Ray looks for it; empty if there is none."""
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


def _check_certificates(file: Path) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise InputError(f"ca_file is {str(file)!r}, which holds no certificate (PEM).") from None
    except OSError as error:
        reason = "is not found" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"ca_file is {str(file)!r}, which {reason}; it must be a file of certificates.") from None


def _messages(error: BaseException | None) -> str:
    """The messages of an error and of those that caused it."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)
