"""Failures during a training cost time and no bits: lost and slow workers, losses that are not finite, full disks."""

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
from distnum import EvaluationError, InputError, TrainingError
from distnum.cli.main import main
from distnum.common.events import Event
from distnum.differentiation.black_box import BlackBox
from distnum.evaluation.forms import Form
from distnum.storage.files import write_whole
from distnum.training.placement import open_pool
from distnum.training.prepare import prepare
from distnum.workers.planner import Planner
from distnum.workers.ray_pool import starting
from distnum.workers.ray_pool.pool import RayPool, WorkerCounts
from tests.chaos.runs import Run
from tests.system.helpers import SMALL, trained
from tests.system.processes import wait_for


def sum_of_squares(n_params: int) -> tuple[BlackBox, np.ndarray]:
    """The sum of the squares of ``n_params`` parameters, and parameters."""
    form, flat = Form.of(np.arange(float(n_params)), "params")
    return BlackBox(lambda x, batch: float((x**2).sum()), form, flat.size, "central", None), flat


# --- workers ----------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_late_worker_never_writes_into_files_in_use() -> None:
    """The worker is still late when the pool is set to use fewer workers."""
    job = prepare(None, None, None, None, {**SMALL, "workers": 3})
    expected = distnum.train(**SMALL, workers=0).params_sha256
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)
        late = pool.worker_pids[2]

        def stop(step: int) -> None:
            if step == SMALL["steps"]:  # the last one; the other workers compute its work
                os.kill(late, signal.SIGSTOP)

        try:
            assert trained(job, pool, stop) == expected
            assert pool._files is not None
            before = pool._files.vectors
            pool.use(2, 1)
            after = pool._files.vectors
            assert before is None or after is None or after.file != before.file
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(late, signal.SIGCONT)
        assert trained(job, pool) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_the_only_worker_is_replaced_if_it_stops() -> None:
    job = prepare(None, None, None, None, {**SMALL, "workers": 1, "step_deadline": 1})
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)

        def stop(step: int) -> None:
            if step == 3:
                os.kill(pool.worker_pids[0], signal.SIGSTOP)

        assert trained(job, pool, stop) == distnum.train(**SMALL, workers=0).params_sha256


@pytest.mark.usefixtures("way")
def test_a_late_worker_stays_and_its_late_answer_is_dropped() -> None:
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


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_shards_follow_the_measured_speeds(tmp_path: Path) -> None:
    slow = tmp_path / "slow"

    def loss(params: np.ndarray, batch: Any) -> float:
        time.sleep(0.004 if slow.exists() and slow.read_text() == str(os.getpid()) else 0.002)
        return float((params**2).sum())

    form, flat = Form.of(np.ones(120), "params")
    objective = BlackBox(loss, form, flat.size, "forward", None)
    with RayPool(objective, lambda step: None, 2) as pool:
        slow.write_text(str(pool.worker_pids[0]))
        sizes, over_ideal = [], []
        for step in range(1, 13):
            gathered = pool.compute(step, flat.copy())
            sizes.append(sorted(len(shard) for _, shard, _ in gathered.replies))
            # Relative to a step in which both workers end at the same time, at the speeds that they had.
            ideal_s = flat.size / sum(len(shard) / reply.compute_s for _, shard, reply in gathered.replies)
            over_ideal.append(gathered.timings.compute_s / ideal_s)
    assert sizes[0] == [60, 60]
    few, many = sizes[-1]
    assert 1.6 < many / few < 2.5, sizes
    assert over_ideal[0] > 1.25
    assert np.median(over_ideal[-5:]) < 1.15, over_ideal


@pytest.mark.usefixtures("way")
def test_resources_that_no_node_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"resources asks for spot=0\.5 a worker, but the Ray cluster has 0 of it"):
        distnum.train(**{**SMALL, "workers": 1}, resources={"spot": 0.5})


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_a_worker_that_hangs_while_it_starts_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = tmp_path / "hang"

    def loss(params: np.ndarray, batch: Any) -> float:
        if hang.exists():
            hang.unlink()  # only one worker hangs
            time.sleep(1000)
        return float((params**2).sum())

    form, flat = Form.of(np.arange(20.0), "params")
    objective = BlackBox(loss, form, flat.size, "central", None)
    monkeypatch.setattr(starting, "START_TIMEOUT_S", 5.0)
    with RayPool(objective, lambda step: None, 1, warm_up=flat.copy()) as pool:
        hang.touch()
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        grad = pool.compute(1, flat.copy()).answers
    assert not hang.exists()
    np.testing.assert_allclose(grad, 2 * flat, atol=1e-6)


@pytest.mark.usefixtures("way")
def test_workers_are_added_when_the_cluster_has_room() -> None:
    room = [2]
    objective, flat = sum_of_squares(50)
    events: list[Event] = []

    def counts(n_cpus: int, n_nodes: int) -> WorkerCounts:
        return WorkerCounts(least=1, most=room[0], at_start=2)

    with RayPool(objective, lambda step: None, counts, on_event=events.append) as pool:
        step = 0

        def has_grown() -> bool:
            nonlocal step
            step += 1
            grad = pool.compute(step, flat.copy()).answers
            np.testing.assert_allclose(grad, 2 * flat, atol=1e-6)
            return pool.n_workers == room[0]

        assert has_grown()
        room[0] = 4
        wait_for(has_grown, 30, "the start of two more workers")
    joined = [event.details["workers"] for event in events if event.kind == "worker_joined"]
    assert joined == [1, 2, 3, 4]


@pytest.mark.usefixtures("way")
def test_training_fails_if_there_are_too_few_workers_for_too_long() -> None:
    job = prepare(None, None, None, None, {**SMALL, "steps": 2000, "workers": 2, "wait_for_workers": 1})
    with open_pool(job) as pool:
        assert isinstance(pool, RayPool)
        assert pool._roster is not None
        pool._roster._request = lambda at_least=0: None  # type: ignore[method-assign]  # the cluster has no room

        def kill(step: int) -> None:
            if step == 3:
                for pid in pool.worker_pids:
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(TrainingError, match=r"0 workers, fewer than 1, for .* in step 3"):
            trained(job, pool, kill)


@pytest.mark.usefixtures("way")
def test_training_fails_if_the_function_hangs_with_some_parameter() -> None:
    driver = os.getpid()

    def hang(params: np.ndarray, batch: Any) -> float:
        if params[2] != 0 and os.getpid() != driver:
            time.sleep(1000)
        return 0.0

    with pytest.raises(EvaluationError, match=r"longer than .*0\.3 s(.|\n)*params\[2\] is moved"):
        distnum.train(hang, np.zeros(3), steps=2, workers=2, timeout=0.3)


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_replies_that_have_arrived_are_received_before_workers_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, flat = sum_of_squares(30)
    events: list[Event] = []
    with RayPool(objective, lambda step: None, 3, deadline_s=0.5, last_step=2, on_event=events.append) as pool:
        plan = Planner.plan

        def plan_slowly(planner: Planner, step: int, *arguments: Any) -> None:
            plan(planner, step, *arguments)
            if step == 2:  # the driver plans the next step while the workers compute
                os.kill(pool.worker_pids[0], signal.SIGKILL)
                time.sleep(1)  # longer than the deadline

        monkeypatch.setattr(Planner, "plan", plan_slowly)
        os.kill(pool.worker_pids[0], signal.SIGSTOP)  # so that it cannot have answered before it is killed
        np.testing.assert_allclose(pool.compute(1, flat.copy()).answers, 2 * flat, atol=1e-6)
    assert [event.kind for event in events].count("worker_lost") == 1


@pytest.mark.usefixtures("way")
def test_events_are_kept_in_the_run_and_in_the_result(tmp_path: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.ray
def test_workers_are_not_given_up_because_the_driver_paused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 120, "3")  # its step deadline is 2 s
    for _ in range(3):
        assert run.wait_step(10)
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        run.process.send_signal(signal.SIGCONT)
    run.to_end()
    assert "worker_lost" not in (tmp_path / "run" / "events.jsonl").read_text()


# --- losses that are not finite ---------------------------------------------------


def not_finite_at(*steps: int) -> Callable[[np.ndarray, int], float]:
    """A loss that is nan in some steps."""

    def loss(params: np.ndarray, step: int) -> float:
        return math.nan if step in steps else float(((params - 3) ** 2).sum())

    return loss


FUNCTION: dict[str, Any] = {"data": lambda step: step, "steps": 12, "workers": 0, "checkpoint_every": 4}


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "distnum")
    out = tmp_path / "run"
    options = {**FUNCTION, "on_nonfinite": "skip", "optimizer": "adam"}
    result = distnum.train(not_finite_at(5, 6), np.zeros(2), **options, out=out)
    assert [row["step"] for row in result.metrics if row.get("skipped")] == [5, 6]
    assert [event["step"] for event in result.events if event["event"] == "step_skipped"] == [5, 6]
    assert caplog.text.count("The step is skipped") == 2
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[4])["loss"] is None

    out = tmp_path / "stopped"
    distnum.train(not_finite_at(5, 6), np.zeros(2), **options, out=out, on_step=lambda step, row: step.step == 5)
    resumed = distnum.train(not_finite_at(5, 6), np.zeros(2), data=FUNCTION["data"], out=out, resume=True)
    assert resumed.params_sha256 == result.params_sha256


def test_training_fails_after_too_many_skipped_steps() -> None:
    options = {**FUNCTION, "steps": 100, "on_nonfinite": "skip"}
    with pytest.raises(TrainingError, match="50 steps in a row have been skipped"):
        distnum.train(lambda params, step: math.inf, np.zeros(2), **options)


def diverging(params: np.ndarray, batch: Any) -> float:
    """A loss that is finite only with a small learning rate."""
    x = float(np.abs(params).max())
    return math.nan if x > 50 else float((params**2).sum())


DIVERGING: dict[str, Any] = {"checkpoint_every": 4, "learning_rate": 1.5, "on_nonfinite": "rollback"}


@pytest.mark.parametrize("stop_at", [None, 1, 4, 5, 6, 9])
def test_rolling_back_halves_the_learning_rate_and_keeps_the_bits(tmp_path: Path, stop_at: int | None) -> None:
    options = {**DIVERGING, "steps": 30, "workers": 0}
    undisturbed = distnum.train(diverging, np.ones(3), **options)
    assert undisturbed.metrics[-1]["learning_rate"] < 1
    assert [row["step"] for row in undisturbed.metrics] == list(range(1, 31))
    assert [event["event"] for event in undisturbed.events].count("rolled_back") >= 1
    out = tmp_path / "run"
    run = distnum.train(diverging, np.ones(3), **options, out=out, on_step=lambda step, row: step.step == stop_at)
    if stop_at is not None:
        run = distnum.train(diverging, np.ones(3), out=out, resume=True)
    assert run.params_sha256 == undisturbed.params_sha256
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(1, 31))


def test_rolling_back_fails_if_no_learning_rate_is_small_enough() -> None:
    with pytest.raises(TrainingError, match="has already been reduced to"):
        distnum.train(not_finite_at(5), np.zeros(2), **FUNCTION, on_nonfinite="rollback")


@pytest.mark.usefixtures("ray_session")
def test_rolling_back_has_the_same_bits_on_workers() -> None:
    options = {**DIVERGING, "steps": 12}
    serial = distnum.train(diverging, np.ones(3), **options, workers=0)
    assert distnum.train(diverging, np.ones(3), **options, workers=2).params_sha256 == serial.params_sha256


# --- full disks -------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event; while it is set, the disk is full."""
    full = threading.Event()

    def write(path: Path, content: bytes) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    for module in ("checkpoints", "rows", "run_folder"):
        monkeypatch.setattr(f"distnum.storage.{module}.write_whole", write)
    return full


def test_a_full_disk_stops_the_training_or_not_as_configured(tmp_path: Path, full: threading.Event) -> None:
    options: dict[str, Any] = {**SMALL, "steps": 12, "workers": 0, "checkpoint_every": 3}
    expected = distnum.train(**options).params_sha256

    def on_step(step: Any, row: Any) -> None:
        if step.step == 5:
            wait_for(lambda: any(tmp_path.glob("*/checkpoints/step-00000003.*")), 30, "the first checkpoint")
            full.set()
        if step.step == 10:
            full.clear()

    stopped = tmp_path / "stopped"
    with pytest.raises(TrainingError, match=r"cannot be written: No space left.*distnum resume"):
        distnum.train(**options, out=stopped, on_step=on_step)
    full.clear()
    assert distnum.train(out=stopped, resume=True).params_sha256 == expected

    result = distnum.train(**options, out=tmp_path / "run", on_write_error="continue", on_step=on_step)
    assert result.params_sha256 == expected
    assert result.kept
    assert {event["event"] for event in result.events} == {"not_written"}


def test_a_result_that_cannot_be_written_is_returned_and_written_later(
    tmp_path: Path, full: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {**SMALL, "steps": 12, "workers": 0, "checkpoint_every": 3}
    out = tmp_path / "run"

    def on_step(step: Any, row: Any) -> None:
        if step.step == 10:
            full.set()

    result = distnum.train(**options, out=out, on_write_error="continue", on_step=on_step)
    assert result.completed
    assert not result.kept
    assert result.params_sha256 == distnum.train(**options).params_sha256
    assert "model.safetensors cannot be written: No space left on device" in caplog.text
    assert not (out / "model.safetensors").exists()
    assert not (out / "result.json").exists()

    full.clear()
    resumed = distnum.train(out=out, resume=True)
    assert resumed.kept
    assert resumed.params_sha256 == result.params_sha256
    assert json.loads((out / "result.json").read_text())["params_sha256"] == result.params_sha256
    np.testing.assert_array_equal(distnum.load(out).params, result.params)


def test_the_command_fails_if_it_cannot_write_the_model_and_prints_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "--workers", "0", "--hidden", "8", "--steps", "4", "--on-write-error", "continue", "--quiet"]

    def write(path: Path, content: bytes) -> None:
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("distnum.storage.run_folder.write_whole", write)
        assert main([*train, "--out", "run"]) == 1
        assert main(["resume", "run", "--json"]) == 1  # still not
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "cannot be written: No space left on device" in printed.err
    last = printed.err.splitlines()[-1]
    assert last.startswith("distnum: all steps are done, but the model and the result are not written")
    assert last.endswith("distnum resume run")
    assert main(["resume", "run"]) == 0
    expected = distnum.train(hidden=8, steps=4, workers=0).params_sha256
    assert json.loads((tmp_path / "run" / "result.json").read_text())["params_sha256"] == expected
