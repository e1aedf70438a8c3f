"""Locations given as text: which are URIs, and what a URI must not hold."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from distnum.common.errors import InputError

__all__ = ["check_no_password", "is_uri", "on_a_disk"]


# What an http address may be: a host, a port and a path.
_HTTP = re.compile(r"^\s*https?:(?=[/\\])|https?:(?=//)", re.IGNORECASE)
_PLAIN_HTTP = re.compile(
    r"https?://(\[[\da-f:.]+\]|[^\s/\\?#@%:\[\]]+)(:\d*)?(/((?!::)[^\\?#])*)?(?=::|$)", re.IGNORECASE
)

# In other URIs, a password before the host; it may hold a slash. Not one: the port in host:8020/path@x, s3://arn:...,
# the drive in file://C:..., and the repository in github://organization:repository@branch.
_PASSWORD = re.compile(
    r"(?<![\w+.-])(?!(file|local|github|git)://)[\w+.-]*://(?!arn:)[^/:]*:(?!\d*(/|::|$))((?!::)[^@])*@", re.IGNORECASE
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_IPV6 = re.compile(r"\[[\da-f:.]+\]", re.IGNORECASE)

# A secret in a query or a fragment.
_SECRET = re.compile(
    r"[?&#;]([\w.-]*[-_.])?(sig|signature|sas|((access|account|api|auth|id|refresh|secret|security|session)?(key|token))"
    r"|secret|pw|pwd|pass|passwd|password|auth|authorization|credentials?)=",
    re.IGNORECASE,
)


def is_uri(location: str | Path | None) -> bool:
    """Return whether a location is a URI.

    >>> is_uri("s3://bucket/run"), is_uri("runs/first"), is_uri(None)
    (True, False, False)
    """
    return isinstance(location, str) and "://" in location


def on_a_disk(uri: str) -> bool:
    """Return whether a URI names a path, which may differ from machine to machine."""
    return uri.partition("://")[0] in ("file", "local")


def check_no_password(location: str | None, field: str) -> None:
    """Check that a URI holds no secret, as it is written to run folders, logs and records of jobs.

    An http address holds a host and a path only: a user name or a query may be a token, whatever its name. Other URIs
    hold no password, and no query whose name says that it is a secret. Chains such as ``zip://x::https://...`` are
    checked throughout.

    Args:
        location: The URI; a path or None passes.
        field: Name of the option that gave it, for messages.

    Raises:
        InputError: It holds one. The message does not repeat it.
    """
    if location is None:
        return
    text = unquote(location)
    without = _CONTROL.sub("", text)  # as readers of URLs take it
    if without != text and is_uri(without):
        raise InputError(f"{field} is a URI that holds a control character; it must be one line of text.")
    if not all(_PLAIN_HTTP.match(text[found.start() :].lstrip()) for found in _HTTP.finditer(text)):
        raise InputError(
            f"{field} is an http address with more than a host, a port and a path; a user name, password, query or "
            "fragment may be secret, and would be shown in run folders, logs and records of jobs. Fetch the file first."
        )
    if is_uri(text) and (_PASSWORD.search(_IPV6.sub("", text)) or _SECRET.search(text)):
        raise InputError(
            f"{field} is a URI that holds a password or a signature; give such things in the environment or in the "
            "configuration of fsspec, or fetch the file first."
        )
