"""What goes wrong while a training runs costs time and no bits: workers lost, stopped and slow, numbers, disks."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import Config, InputError, TrainingError
from distnum.common.events import Event
from distnum.differentiation.black_box import BlackBox
from distnum.differentiation.parameters import ParamsLayout
from distnum.storage.checkpoints import params_sha256
from distnum.storage.files import write_whole
from distnum.training.job import Job
from distnum.training.loop import run_steps
from distnum.training.placement import open_pool
from distnum.training.prepare import prepare
from distnum.training.unfinished import UnfinishedStep
from distnum.workers.planner import Planner
from distnum.workers.ray_pool import starting
from distnum.workers.ray_pool.pool import RayPool, WorkerCounts
from distnum.workers.serial_pool import SerialPool
from tests.chaos.runs import Run

SMALL: dict[str, Any] = {"hidden": (8,), "steps": 8, "batch_size": 20}
on_ray = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
on_both_ways = [pytest.mark.ray, pytest.mark.usefixtures("way")]


def waited_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def trained(job: Job, pool: Any, at_step: Callable[[int], None]) -> str:
    """The parameters' checksum after a job whose steps are disturbed: ``at_step`` is called before each."""
    state = job.initial
    at_step(1)
    for step in run_steps(job, pool, state):
        state = step.state
        at_step(step.step + 1)
    return params_sha256(state.params)


# --- workers ----------------------------------------------------------------------


class TestWorkers:
    pytestmark = on_both_ways

    @pytest.mark.parametrize(
        "options",
        [
            {"method": "naive", "hidden": (2,), "steps": 4, "batch_size": 3},
            {"scheme": "forward"},
            {"scheme": "backward", "activation": "step", "h": 0.1},
            {"scheme": "central"},
            {"scheme": "central4", "dtype": "float32", "optimizer": "adam"},
        ],
        ids=lambda options: "-".join(str(value) for value in options.values()),
    )
    def test_bits_do_not_depend_on_workers_threads_or_their_loss(self, options: dict[str, Any]) -> None:
        """The contract of all pools."""
        options = {**SMALL, "steps": 4, **options}
        expected = distnum.train(**options, workers=0).params_sha256
        threads = [1] if options.get("method") == "naive" else [1, 2]
        for n_threads in threads:
            assert distnum.train(**options, workers=0, threads_per_worker=n_threads).params_sha256 == expected
        for n_workers, n_threads in [(1, 1), (2, threads[-1]), (3, 1), (7, 1)]:
            job = prepare(None, None, None, None, {**options, "workers": n_workers, "threads_per_worker": n_threads})
            with open_pool(job) as pool:
                assert isinstance(pool, RayPool)
                assert trained(job, pool, lambda step: None) == expected

                def kill_one(step: int, pool: RayPool = pool) -> None:
                    if step in (1, 3):
                        os.kill(pool.worker_pids[0], signal.SIGKILL)

                assert trained(job, pool, kill_one) == expected

    def test_a_stopped_worker_is_overtaken_then_given_up(self) -> None:
        job = prepare(None, None, None, None, {**SMALL, "steps": 60, "workers": 3, "step_deadline": 2})
        expected = distnum.train(**{**SMALL, "steps": 60}, workers=0).params_sha256
        events: list[Event] = []
        stopped: list[int] = []
        with open_pool(job, on_event=events.append) as pool:
            assert isinstance(pool, RayPool)
            pids = list(pool.worker_pids)

            def stop(step: int) -> None:
                if step == 5:
                    stopped.append(pids[1])
                    os.kill(pids[1], signal.SIGSTOP)
                if step == 50:  # the others have gone on meanwhile; now its time is over
                    time.sleep(2.1)

            assert trained(job, pool, stop) == expected
            assert pids[1] not in pool.worker_pids
        lost = [event for event in events if event.kind == "worker_lost"]
        assert [event.details["pid"] for event in lost] == stopped
        assert "has not answered for" in lost[0].text
        assert waited_for(lambda: not os.path.exists(f"/proc/{stopped[0]}"))

    def test_who_is_late_when_some_are_told_to_rest_writes_into_nothing_in_use(self) -> None:
        job = prepare(None, None, None, None, {**SMALL, "workers": 3})
        expected = distnum.train(**SMALL, workers=0).params_sha256
        with open_pool(job) as pool:
            assert isinstance(pool, RayPool)
            late = pool.worker_pids[2]

            def stop(step: int) -> None:
                if step == SMALL["steps"]:  # the last one: what it has not done, others do
                    os.kill(late, signal.SIGSTOP)

            try:
                assert trained(job, pool, stop) == expected
                before = pool._files.vectors
                pool.use(2, 1)
                assert before is None or pool._files.vectors is None or pool._files.vectors.file != before.file
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(late, signal.SIGCONT)
            assert trained(job, pool, lambda step: None) == expected

    def test_the_only_worker_stopped_is_replaced(self) -> None:
        job = prepare(None, None, None, None, {**SMALL, "workers": 1, "step_deadline": 1})
        with open_pool(job) as pool:
            assert isinstance(pool, RayPool)

            def stop(step: int) -> None:
                if step == 3:
                    os.kill(pool.worker_pids[0], signal.SIGSTOP)

            assert trained(job, pool, stop) == distnum.train(**SMALL, workers=0).params_sha256

    def test_a_worker_that_was_only_late_comes_back_and_its_answer_is_dropped(self) -> None:
        job = prepare(None, None, None, None, {**SMALL, "steps": 40, "workers": 2})
        expected = distnum.train(**{**SMALL, "steps": 40}, workers=0).params_sha256
        events: list[Event] = []
        with open_pool(job, on_event=events.append) as pool:
            assert isinstance(pool, RayPool)
            pids = list(pool.worker_pids)

            def stop(step: int) -> None:
                if step == 5:
                    os.kill(pids[0], signal.SIGSTOP)
                if step == 20:
                    os.kill(pids[0], signal.SIGCONT)
                    time.sleep(0.3)

            assert trained(job, pool, stop) == expected
            assert sorted(pool.worker_pids) == sorted(pids)
        assert not [event for event in events if event.kind == "worker_lost"]

    def test_shards_follow_measured_speed(self, tmp_path: Path) -> None:
        slow = tmp_path / "slow"

        def loss(params: np.ndarray, batch: Any) -> float:
            time.sleep(0.004 if slow.exists() and slow.read_text() == str(os.getpid()) else 0.002)
            return float((params**2).sum())

        layout, flat = ParamsLayout.of(np.ones(120), "params")
        objective = BlackBox(loss, layout, flat.size, "forward", None)
        with RayPool(objective, lambda step: None, 2) as pool:
            slow.write_text(str(pool.worker_pids[0]))
            sizes, over_ideal = [], []
            for step in range(1, 13):
                found = pool.compute(step, flat.copy())
                sizes.append(sorted(len(shard) for _, shard, _ in found.replies))
                # If both ended at once, at the speeds that they had.
                ideal_s = flat.size / sum(len(shard) / reply.compute_s for _, shard, reply in found.replies)
                over_ideal.append(found.timings.compute_s / ideal_s)
        assert sizes[0] == [60, 60]
        few, many = sizes[-1]
        assert 1.6 < many / few < 2.5, sizes
        assert over_ideal[0] > 1.25
        assert np.median(over_ideal[-5:]) < 1.15, over_ideal

    def test_resources_that_no_node_has_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"resources asks for spot=0\.5 a worker, but the Ray cluster has 0 of it"):
            distnum.train(**{**SMALL, "workers": 1}, resources={"spot": 0.5})

    def test_a_worker_that_hangs_while_it_starts_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hang = tmp_path / "hang"

        def loss(params: np.ndarray, batch: Any) -> float:
            if hang.exists():
                hang.unlink()  # the next one does not
                time.sleep(1000)
            return float((params**2).sum())

        layout, flat = ParamsLayout.of(np.arange(20.0), "params")
        objective = BlackBox(loss, layout, flat.size, "central", None)
        monkeypatch.setattr(starting, "START_TIMEOUT_S", 5.0)
        with RayPool(objective, lambda step: None, 1, warm_up=flat.copy()) as pool:
            hang.touch()
            os.kill(pool.worker_pids[0], signal.SIGKILL)
            grad = pool.compute(1, flat.copy()).answers
        assert not hang.exists()
        np.testing.assert_allclose(grad, 2 * flat, atol=1e-6)

    def test_workers_come_as_there_is_room(self) -> None:
        room = [2]
        layout, flat = ParamsLayout.of(np.arange(50.0), "params")
        objective = BlackBox(lambda x, batch: float((x**2).sum()), layout, flat.size, "central", None)
        events: list[Event] = []

        def counts(n_cpus: int, n_nodes: int) -> WorkerCounts:
            return WorkerCounts(least=1, most=room[0], at_start=2)

        with RayPool(objective, lambda step: None, counts, on_event=events.append) as pool:
            step = 0

            def grown() -> bool:
                nonlocal step
                step += 1
                grad = pool.compute(step, flat.copy()).answers
                np.testing.assert_allclose(grad, 2 * flat, atol=1e-6)
                return pool.n_workers == room[0]

            assert grown()
            room[0] = 4
            assert waited_for(grown)
        joined = [event.details["workers"] for event in events if event.kind == "worker_joined"]
        assert joined == [1, 2, 3, 4]

    def test_too_few_workers_for_too_long_is_an_end(self) -> None:
        job = prepare(None, None, None, None, {**SMALL, "steps": 2000, "workers": 2, "wait_for_workers": 1})
        with open_pool(job) as pool:
            assert isinstance(pool, RayPool)
            assert pool._roster is not None
            pool._roster._request = lambda at_least=0: None  # type: ignore[method-assign]  # the cluster has no room any more

            def kill(step: int) -> None:
                if step == 3:
                    for pid in pool.worker_pids:
                        os.kill(pid, signal.SIGKILL)

            with pytest.raises(TrainingError, match=r"0 workers, fewer than 1, for .* in step 3"):
                trained(job, pool, kill)

    def test_a_function_that_hangs_with_some_parameter_is_an_end(self) -> None:
        driver = os.getpid()

        def hang(params: np.ndarray, batch: Any) -> float:
            if params[2] != 0 and os.getpid() != driver:
                time.sleep(1000)
            return 0.0

        with pytest.raises(TrainingError, match=r"lost 4 times in step 1.*has not answered for"):
            distnum.train(hang, np.zeros(3), steps=2, workers=2, step_deadline=0.3)

    def test_replies_that_have_come_are_received_before_workers_are_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layout, flat = ParamsLayout.of(np.arange(30.0), "params")
        objective = BlackBox(lambda x, batch: float((x**2).sum()), layout, flat.size, "central", None)
        events: list[Event] = []
        with RayPool(objective, lambda step: None, 3, deadline_s=0.5, last_step=2, on_event=events.append) as pool:
            plan = Planner.plan

            def busy(planner: Planner, step: int, *arguments: Any) -> None:
                plan(planner, step, *arguments)
                if step == 2:  # the driver plans ahead while the workers compute
                    os.kill(pool.worker_pids[0], signal.SIGKILL)
                    time.sleep(1)  # longer than the deadline

            monkeypatch.setattr(Planner, "plan", busy)
            os.kill(pool.worker_pids[0], signal.SIGSTOP)  # so that it cannot have answered
            np.testing.assert_allclose(pool.compute(1, flat.copy()).answers, 2 * flat, atol=1e-6)
        assert [event.kind for event in events].count("worker_lost") == 1

    def test_events_are_kept(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        pids: list[int] = []

        def on_start(pool: Any, step_s: float) -> None:
            pids.extend(pool.worker_pids)

        def on_step(step: Any, row: Any) -> None:
            if step.step == 3:
                os.kill(pids[0], signal.SIGKILL)

        result = distnum.train(**SMALL, workers=2, out=out, on_start=on_start, on_step=on_step)
        rows = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        assert [row["event"] for row in rows][:3] == ["worker_joined", "worker_joined", "worker_lost"]
        assert rows[2]["step"] == 4
        assert rows[2]["pid"] == pids[0]
        assert [row["event"] for row in result.events] == [row["event"] for row in rows]
        assert result.params_sha256 == distnum.train(**SMALL, workers=0).params_sha256


@pytest.mark.ray
def test_a_pause_of_the_driver_is_nobodys_lateness(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 120, "3")  # whose deadline is 2 s
    for _ in range(3):
        assert run.wait_step(10)
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        run.process.send_signal(signal.SIGCONT)
    run.to_end()
    assert "worker_lost" not in (tmp_path / "run" / "events.jsonl").read_text()


# --- numbers ----------------------------------------------------------------------


def not_finite_at(*steps: int) -> Callable[[np.ndarray, int], float]:
    def loss(params: np.ndarray, step: int) -> float:
        return math.nan if step in steps else float(((params - 3) ** 2).sum())

    return loss


BLACK_BOX: dict[str, Any] = {"data": lambda step: step, "steps": 12, "workers": 0, "checkpoint_every": 4}


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "distnum")
    out = tmp_path / "run"
    options = {**BLACK_BOX, "on_nonfinite": "skip", "optimizer": "adam"}
    result = distnum.train(not_finite_at(5, 6), np.zeros(2), **options, out=out)
    assert [row["step"] for row in result.metrics if row.get("skipped")] == [5, 6]
    assert [event["step"] for event in result.events if event["event"] == "step_skipped"] == [5, 6]
    assert caplog.text.count("The step is skipped") == 2
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[4])["loss"] is None

    out = tmp_path / "stopped"
    distnum.train(not_finite_at(5, 6), np.zeros(2), **options, out=out, on_step=lambda step, row: step.step == 5)
    resumed = distnum.train(not_finite_at(5, 6), np.zeros(2), data=BLACK_BOX["data"], out=out, resume=True)
    assert resumed.params_sha256 == result.params_sha256


def test_too_many_skipped_steps_are_an_end() -> None:
    options = {**BLACK_BOX, "steps": 100, "on_nonfinite": "skip"}
    with pytest.raises(TrainingError, match="50 steps in a row have been skipped"):
        distnum.train(lambda params, step: math.inf, np.zeros(2), **options)


def diverging(params: np.ndarray, batch: Any) -> float:
    """Finite only where learning is slow."""
    x = float(np.abs(params).max())
    return math.nan if x > 50 else float((params**2).sum())


@pytest.mark.parametrize("stop_at", [None, 1, 4, 5, 6, 9])
def test_rolling_back_halves_the_learning_rate_and_keeps_its_bits(tmp_path: Path, stop_at: int | None) -> None:
    options: dict[str, Any] = {"steps": 30, "workers": 0, "checkpoint_every": 4, "learning_rate": 1.5}
    options |= {"on_nonfinite": "rollback"}
    whole = distnum.train(diverging, np.ones(3), **options)
    assert whole.metrics[-1]["learning_rate"] < 1
    assert [row["step"] for row in whole.metrics] == list(range(1, 31))
    assert [event["event"] for event in whole.events].count("rolled_back") >= 1
    out = tmp_path / "run"
    run = distnum.train(diverging, np.ones(3), **options, out=out, on_step=lambda step, row: step.step == stop_at)
    if stop_at is not None:
        run = distnum.train(diverging, np.ones(3), out=out, resume=True)
    assert run.params_sha256 == whole.params_sha256
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(1, 31))


def test_rolling_back_ends_where_no_rate_is_small_enough() -> None:
    with pytest.raises(TrainingError, match="It has been tried with"):
        distnum.train(not_finite_at(5), np.zeros(2), **BLACK_BOX, on_nonfinite="rollback")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_policies_hold_on_workers_too() -> None:
    options: dict[str, Any] = {"steps": 12, "checkpoint_every": 4, "learning_rate": 1.5, "on_nonfinite": "rollback"}
    serial = distnum.train(diverging, np.ones(3), **options, workers=0)
    assert distnum.train(diverging, np.ones(3), **options, workers=2).params_sha256 == serial.params_sha256


# --- disks ------------------------------------------------------------------------


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing more can be written while it is set."""
    full = threading.Event()
    whole = write_whole

    def write(path: Path, content: bytes) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        whole(path, content)

    for module in ("checkpoints", "rows", "run_folder"):
        monkeypatch.setattr(f"distnum.storage.{module}.write_whole", write)
    return full


def test_a_full_disk_stops_the_training_or_not_as_configured(tmp_path: Path, no_room: threading.Event) -> None:
    options: dict[str, Any] = {**SMALL, "steps": 12, "workers": 0, "checkpoint_every": 3}
    expected = distnum.train(**options).params_sha256

    def on_step(step: Any, row: Any) -> None:
        if step.step == 5:
            assert waited_for(lambda: any(tmp_path.glob("*/checkpoints/step-00000003.*")))
            no_room.set()
        if step.step == 10:
            no_room.clear()

    stopped = tmp_path / "stopped"
    with pytest.raises(TrainingError, match=r"cannot be written: No space left.*distnum resume"):
        distnum.train(**options, out=stopped, on_step=on_step)
    no_room.clear()
    assert distnum.train(out=stopped, resume=True).params_sha256 == expected

    result = distnum.train(**options, out=tmp_path / "run", on_write_error="continue", on_step=on_step)
    assert result.params_sha256 == expected
    assert {event["event"] for event in result.events} == {"not_written"}


# --- long steps -------------------------------------------------------------------


class Crash(BaseException):
    """The driver dies."""


def test_finished_slices_of_a_long_step_survive_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distnum.workers.planner._PART_S", 0)  # a tile at a time
    layout, flat = ParamsLayout.of(np.arange(64.0), "params")
    n_calls = [0]

    def loss(params: np.ndarray, batch: Any) -> float:
        n_calls[0] += 1
        if n_calls[0] == 100:
            raise Crash
        return float((params**2).sum())

    objective = BlackBox(loss, layout, flat.size, "central", None)

    def gradient(identity: dict[str, Any], step: int = 1, folder: str = "slices") -> np.ndarray:
        kept = UnfinishedStep(tmp_path / folder, objective, identity, lambda path, error: None, after_s=0)
        pool = SerialPool(objective, lambda step: None)
        return pool.compute(step, flat.copy(), kept).answers

    with pytest.raises(Crash):
        gradient({})
    before = n_calls[0]
    found = gradient({})
    assert n_calls[0] - before < 40  # of 129
    np.testing.assert_array_equal(found, serial_gradient(objective, flat))

    n_calls[0] = 0
    with pytest.raises(Crash):
        gradient({}, folder="others")
    before = n_calls[0]
    np.testing.assert_array_equal(gradient({}, step=2, folder="others"), found)  # what is of another step is of no use
    assert n_calls[0] - before == 129


def serial_gradient(objective: BlackBox, flat: np.ndarray) -> np.ndarray:
    pool = SerialPool(objective, lambda step: None)
    return pool.compute(1, flat.copy()).answers


# --- configuration ----------------------------------------------------------------


def test_a_range_of_workers_in_a_configuration() -> None:
    assert Config(workers="2:8").workers == "2:8"
    assert Config(workers="3:3").workers == 3
    with pytest.raises(InputError, match="workers is '8:2'"):
        Config(workers="8:2")
