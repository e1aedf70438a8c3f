"""One Ray session for all tests that need one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before anything imports ray, which reads them once: the tests' own session asks for a token.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")

# A busy machine is slow at any moment; the tests say nothing about speed.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A small session with more logical CPUs than the machine may have: the tests wait more than they compute."""
    import ray

    ray.init(
        address="local",  # not one that happens to run here
        num_cpus=8,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(params=["calls", "sockets"])
def way(request: pytest.FixtureRequest, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How workers are reached: by calls of Ray, as on a cluster, or as in a session that distnum has started itself."""
    if request.param == "calls":
        yield request.param
        return
    import ray

    with tempfile.TemporaryDirectory(prefix="distnum-") as folder:

        @contextlib.contextmanager
        def session(*_: object) -> Iterator[tuple[Any, Path]]:
            yield ray, Path(folder)

        monkeypatch.setattr("distnum.workers.ray_pool.pool.ray_session", session)
        yield request.param
        # Of a worker that was still starting its socket may stay, until the session ends.
        assert all(file.is_socket() for file in Path(folder).iterdir())
