"""Places by their names: which are URIs, and what must not stand in one."""

from __future__ import annotations

import re
from pathlib import Path

from distnum.common.errors import InputError

__all__ = ["check_no_password", "is_uri", "on_a_disk"]


# A password before the host, a token in its place, or what a signed link has in its query.
_SECRET = re.compile(
    r"://[^/@]*:[^/@]*@"
    r"|(^|::)https?://[^/@]+@"
    r"|[?&#;]([\w.-]*[-_.])?(sig|signature|(access)?token|(api)?key|secret|password|passwd|credential)=",
    re.IGNORECASE,
)


def is_uri(place: str | Path | None) -> bool:
    """Whether a place is named by a URI.

    >>> is_uri("s3://bucket/run"), is_uri("runs/first"), is_uri(None)
    (True, False, False)
    """
    return isinstance(place, str) and "://" in place


def on_a_disk(uri: str) -> bool:
    """Whether a URI means another thing on each machine: a path of its own."""
    return uri.partition("://")[0] in ("file", "local")


def check_no_password(place: str | None, field: str) -> None:
    """Refuse a URI that holds a password, or is a signed link: it would stand in run folders, logs and records of jobs.

    Raises:
        InputError: it does; the text does not hold it.
    """
    if place is not None and is_uri(place) and _SECRET.search(place):
        raise InputError(
            f"{field} is a URI that holds a password or a signature; give such things in the environment or in the "
            "configuration of fsspec, or fetch the file first."
        )
