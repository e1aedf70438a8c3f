"""Training ends with the same bits on any number of workers and threads, with killed and stopped workers too."""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from typing import Any

import pytest

import distnum
from distnum.common.events import Event
from distnum.training.placement import open_pool
from distnum.training.prepare import prepare
from distnum.workers.ray_pool.pool import RayPool
from tests.system.helpers import SMALL, trained
from tests.system.processes import wait_for

SETTINGS: list[dict[str, Any]] = [
    {"method": "naive", "hidden": (2,), "batch_size": 3},
    {"scheme": "forward", "activation": "tanh", "hidden": (6, 5), "loss": "mean_squared_error"},
    {"scheme": "backward", "activation": "step", "h": 0.1},
    {"scheme": "central4", "dtype": "float32", "optimizer": "adam"},
    {"activation": "quantize:4", "h": 0.1, "hidden": (6, 6, 6)},
    {"hidden": (12, 9), "batch_size": 500},  # workers of one machine share the forward pass of so large a batch
]


@cache
def serial_bits(steps: int = SMALL["steps"]) -> str:
    """Return the checksum after ``steps`` steps in this process, with one thread."""
    return distnum.train(**{**SMALL, "steps": steps}, workers=0, threads_per_worker=1).params_sha256


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_the_bits(threads: int) -> None:
    assert distnum.train(**SMALL, workers=0, threads_per_worker=threads).params_sha256 == serial_bits()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 2), (3, 1), pytest.param(5, 1, marks=pytest.mark.slow)])
def test_workers_do_not_change_the_bits(workers: int, threads: int) -> None:
    assert distnum.train(**SMALL, workers=workers, threads_per_worker=threads).params_sha256 == serial_bits()


@pytest.mark.usefixtures("ray_session")
def test_workers_reached_by_calls_of_ray_do_not_change_the_bits() -> None:
    assert distnum.train(**SMALL, workers=2).params_sha256 == serial_bits()


@pytest.mark.usefixtures("way")
def test_a_killed_worker_does_not_change_the_bits() -> None:
    job = prepare(None, None, None, None, {**SMALL, "workers": 3})
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)

        def kill(step: int) -> None:
            if step in (1, 3):
                os.kill(pool.worker_pids[0], signal.SIGKILL)

        assert trained(job, pool, kill) == serial_bits()


@pytest.mark.usefixtures("way")
def test_a_stopped_worker_does_not_change_the_bits_and_is_given_up() -> None:
    job = prepare(None, None, None, None, {**SMALL, "steps": 60, "workers": 3, "step_deadline": 2})
    events: list[Event] = []
    stopped: list[int] = []
    with open_pool(job, on_event=events.append) as pool:
        assert isinstance(pool, RayPool)
        pids = list(pool.worker_pids)

        def stop(step: int) -> None:
            if step == 5:
                stopped.append(pids[1])
                os.kill(pids[1], signal.SIGSTOP)
            if step == 50:  # the others have computed its work since; now its deadline passes
                time.sleep(2.1)

        assert trained(job, pool, stop) == serial_bits(steps=60)
        assert pids[1] not in pool.worker_pids
    lost = [event for event in events if event.kind == "worker_lost"]
    assert [event.details["pid"] for event in lost] == stopped
    assert "has not answered for" in lost[0].text
    wait_for(lambda: not os.path.exists(f"/proc/{stopped[0]}"), 30, "the end of the stopped worker")


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: "-".join(map(str, options.values())))
def test_no_setting_changes_the_bits(options: dict[str, Any]) -> None:
    options = {**SMALL, "steps": 4, **options}
    expected = distnum.train(**options, workers=0, threads_per_worker=1).params_sha256
    threads = 1 if options.get("method") == "naive" else 2
    assert distnum.train(**options, workers=0, threads_per_worker=threads).params_sha256 == expected
    job = prepare(None, None, None, None, {**options, "workers": 3, "threads_per_worker": threads})
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)
        assert trained(job, pool) == expected

        def kill(step: int) -> None:
            if step in (1, 3):
                os.kill(pool.worker_pids[0], signal.SIGKILL)

        assert trained(job, pool, kill) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_workers_do_not_change_the_bits_of_the_main_job() -> None:
    serial = distnum.train(steps=3, workers=0).params_sha256
    assert {distnum.train(steps=3, workers=k).params_sha256 for k in (2, 4)} == {serial}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "make",
    [
        distnum.Activation.from_function,
        pytest.param(distnum.Activation.from_scalar_function, marks=pytest.mark.slow),  # compiled by each worker
    ],
)
def test_a_custom_activation_has_the_same_bits_on_workers(make: Any) -> None:
    options = {**SMALL, "activation": make(lambda a: a / (1 + a * a), "bump")}
    serial = distnum.train(**options, workers=0).params_sha256
    assert distnum.train(**options, workers=2).params_sha256 == serial
