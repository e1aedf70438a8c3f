"""Locations given as text: which are URIs, and what a URI must not hold."""

from __future__ import annotations

import re
from pathlib import Path

from distnum.common.errors import InputError

__all__ = ["check_no_password", "is_uri", "on_a_disk"]


# A password before the host, a token in its place, or a secret in the query of a signed link.
_SECRET = re.compile(
    r"://[^/@]*:[^/@]*@"
    r"|(^|::)https?://[^/@]+@"
    r"|[?&#;]([\w.-]*[-_.])?(sig|signature|(access)?token|(api)?key|secret|password|passwd|credential)=",
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
    """Check that a URI holds no password or signature, as it is written to run folders, logs and records of jobs.

    Args:
        location: The URI; a path or None passes.
        field: Name of the option that gave it, for messages.

    Raises:
        InputError: It holds one. The message does not repeat it.
    """
    if location is not None and is_uri(location) and _SECRET.search(location):
        raise InputError(
            f"{field} is a URI that holds a password or a signature; give such things in the environment or in the "
            "configuration of fsspec, or fetch the file first."
        )
