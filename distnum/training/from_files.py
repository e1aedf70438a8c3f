"""What a configuration that was read from a file must not decide: what this process connects to.

A run, or a file for ``--config``, may come from somebody else. A cluster that it names would be sent the user's
function, data and token, and answers in pickles, which run code; data at a URI would be fetched with the user's
credentials. So both count only if the user gives them again.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from shlex import quote
from typing import Any

from distnum.common.errors import InputError
from distnum.storage.uris import check_no_password, is_uri, on_a_disk
from distnum.training.config import Config

__all__ = ["check_local", "without_connections"]

log = logging.getLogger("distnum")


def without_connections(config: Config, given: Mapping[str, Any], source: str) -> Config:
    """Return the configuration without the address of a cluster.

    Args:
        config: The configuration in a file.
        given: The fields that the user gives in this call.
        source: Name of the file, for messages.

    Raises:
        InputError: It names a cluster, and the user does not say where to compute; or its data are at a URI, and the
            user does not give ``data``.
    """
    if "data" not in given:
        check_local(config.data, source)
    if config.address is None:
        return config
    if "address" not in given and not _session_is_chosen():
        if "workers" not in given:
            raise InputError(
                f"{source}: address is {config.address!r}, but a file does not decide where to connect to; give "
                f"--address {quote(config.address)} to use that Ray cluster, or --workers N to compute on this machine."
            )
        if str(given["workers"]) != "0":
            log.warning(f"{source} names the Ray cluster at {config.address}; without --address it is not used.")
    return replace(config, address=None)


def _session_is_chosen() -> bool:
    """Whether the user has chosen a Ray session without an address: in the environment, or in this process."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and bool(ray.is_initialized()))


def check_local(data: str, source: str) -> None:
    """Check that data that a file names are on this machine.

    Args:
        data: Name, path or URI of the data.
        source: Name of the file, for messages.

    Raises:
        InputError: They are elsewhere.
    """
    check_no_password(data, "data")
    elsewhere = is_uri(data) and ("::" in data or not on_a_disk(data))
    path = data.partition("://")[2] if is_uri(data) else data
    # Windows looks for such a path on another machine.
    if elsewhere or (os.name == "nt" and path.startswith(("//", "\\\\"))):
        raise InputError(
            f"{source}: data is {data!r}, but a file does not decide where to connect to; give --data {quote(data)} to "
            "read it from there."
        )
