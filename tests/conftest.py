"""One Ray session for all tests that need one, the mark of these tests, and profiles of Hypothesis."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before anything imports ray, which reads them once: the tests' own session asks for a token.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")

# Without deadlines: a busy machine is slow at any moment, and the tests do not check speed.
hypothesis.settings.register_profile("few", deadline=None, database=None, max_examples=40)
hypothesis.settings.register_profile("many", deadline=None, database=None, max_examples=400)


def pytest_configure(config: pytest.Config) -> None:
    """Try more examples if slow tests are selected, for example by ``-m ""`` or ``-m slow``, and take SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests send it, and a shell ignores it in its background
    hypothesis.settings.load_profile("few" if "not slow" in config.option.markexpr else "many")


@pytest.hookimpl(tryfirst=True)  # before the selection by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared Ray session."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A small session with more logical CPUs than the machine may have: the tests wait more than they compute."""
    import ray

    # Ray does not remove the folder of a session. Names of its sockets must be short.
    with tempfile.TemporaryDirectory(prefix="dn", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",  # not one that happens to run here
            num_cpus=8,
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
            object_store_memory=200 * 2**20,
            _temp_dir=folder,
        )
        # With Ray's handler, a copy of this process (fork) that has not begun yet does not end by SIGTERM.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ray would log the end of an actor that one test has killed while another test runs.
        ray._private.worker._unhandled_error_handler = lambda error: None
        yield
        ray.shutdown()


@pytest.fixture(params=["sockets", pytest.param("calls", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How workers are reached: over sockets, as in a session that distnum has started, or by calls of Ray."""
    if request.param == "calls":
        yield request.param
        return
    import ray

    from distnum.workers.ray_pool.session import RaySession

    with tempfile.TemporaryDirectory(prefix="distnum-") as folder:

        @contextlib.contextmanager
        def session(*_: object) -> Iterator[RaySession]:
            yield RaySession(ray, Path(folder))

        monkeypatch.setattr("distnum.workers.ray_pool.team.ray_session", session)
        yield request.param
        # A worker that was still starting may leave its socket and its file for crashes, until the session ends.
        assert all(file.name.startswith("worker-") for file in Path(folder).iterdir())
