"""Training of Python functions: every option of a derivative, failures, and what is kept of a long step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distnum
from distnum.common.errors import InputError, NotFiniteError
from distnum.training import kept_evaluations

TARGET = np.array([0.5, -2.0, 3.0])


def loss(w: np.ndarray, batch: Any) -> float:
    return float(((w - TARGET) ** 2).sum())


def trained(function: Any = loss, params: Any = None, **options: Any) -> distnum.TrainResult:
    params = np.zeros(3) if params is None else params
    return distnum.train(function, params, **{"steps": 60, "workers": 0, "learning_rate": 0.2, **options})


@pytest.fixture(scope="module")
def evaluator(ray_session: Any) -> Iterator[distnum.Evaluator]:
    with distnum.Evaluator(2) as workers:
        yield workers


# --- options --------------------------------------------------------------------


def test_bounds_are_kept_by_projection() -> None:
    seen: list[np.ndarray] = []

    def watched(w: np.ndarray, batch: Any) -> float:
        seen.append(w.copy())
        return loss(w, batch)

    result = trained(watched, bounds=([-1, -1, -1], 1))
    np.testing.assert_allclose(result.params, [0.5, -1.0, 1.0], atol=1e-6)
    points = np.array(seen)
    assert points.min() >= -1
    assert points.max() <= 1


def test_bounds_are_kept_in_single_precision() -> None:
    farthest = [0.0]

    def watched(w: np.ndarray, batch: Any) -> float:
        farthest[0] = max(farthest[0], float(np.abs(w.astype(np.float64)).max()))
        return -float(w.astype(np.float64).sum())

    result = trained(watched, params=np.full(2, 0.05, np.float32), bounds=(-0.1, 0.1), steps=10)
    assert result.params.dtype == np.float32
    assert 0.0999 < farthest[0] <= 0.1


def test_parameters_that_begin_outside_their_bounds_are_refused() -> None:
    with pytest.raises(InputError, match=r"params\[0\] is 0 at the beginning, outside its bounds 1 and 2"):
        trained(bounds=(1, 2))


def test_only_the_indices_are_trained() -> None:
    result = trained(params=np.full(3, 9.0), indices=[1], weight_decay=0.1, optimizer="adam")
    assert result.params[0] == 9
    assert result.params[2] == 9
    assert result.params[1] < 8
    assert result.metrics[0]["loss_evaluations"] == 3


@pytest.mark.parametrize(
    "options",
    [
        {"order": 4},
        {"scheme": "3-point", "rel_step": 1e-5},
        {"scheme": "forward", "order": 2},
        {"h": np.array([1e-4, 1e-3, 1e-5])},
        {"h": 1e-3, "noise": 1e-12},
        {"x_scale": 10.0},
        {"h": "adaptive"},
    ],
    ids=str,
)
def test_every_way_to_differentiate_finds_the_minimum(options: dict[str, Any]) -> None:
    np.testing.assert_allclose(trained(**options).params, TARGET, atol=1e-4)


def test_the_complex_step_and_further_arguments() -> None:
    def analytic(w: np.ndarray, batch: Any, power: int, *, scale: float) -> Any:
        return scale * ((w - TARGET) ** power).sum()

    result = trained(analytic, scheme="complex", args=(2,), kwargs={"scale": 1.0})
    np.testing.assert_allclose(result.params, TARGET, atol=1e-10)


def test_a_vectorized_loss() -> None:
    def stack(w: np.ndarray, batch: Any) -> np.ndarray:
        assert w.ndim == 2
        return ((w - TARGET) ** 2).sum(axis=1)

    np.testing.assert_allclose(trained(stack, vectorized=True).params, TARGET, atol=1e-6)


def test_executors_maps_and_evaluators_give_the_same_bits(evaluator: distnum.Evaluator) -> None:
    x = np.arange(12.0).reshape(6, 2)

    def rows(w: np.ndarray, batch: np.ndarray) -> float:
        return float(np.tanh(batch @ w).sum())

    options = {"params": np.array([0.1, -0.3]), "data": x, "batch_size": 3, "steps": 4}
    expected = trained(rows, **options).params_sha256
    with ThreadPoolExecutor(2) as threads:
        assert trained(rows, **options, workers=threads).params_sha256 == expected
    assert trained(rows, **options, workers=map).params_sha256 == expected
    assert trained(rows, **options, workers=evaluator).params_sha256 == expected
    assert len(evaluator.worker_pids) == 2  # they stay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f0": 1.0}, "f0 is given, but the loss at the parameters changes with every step"),
        ({"sparsity": np.ones((1, 3))}, "sparsity is given, but a loss is one number"),
        ({"on_eror": "nan"}, "'on_eror' is no option of a training of a function; did you mean 'on_error'"),
        ({"order": 3}, "order is 3; for scheme 'central' it must be 2 or 4 or 6 or 8"),
        ({"timeout": 1.0}, "timeout is 1, but an evaluation in this process cannot be ended"),
        ({"step_deadline": 3}, "a loss function has timeout"),
        ({"h": np.ones(2)}, r"h .*\(2,\)"),
        ({"indices": [5]}, "indices"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(**options)


def test_options_for_functions_are_refused_for_networks() -> None:
    with pytest.raises(InputError, match="bounds is given, but a network is trained"):
        distnum.train(bounds=(0, 1), steps=1, workers=0)


# --- what is not silently wrong -------------------------------------------------


def test_a_step_that_does_not_fit_is_found_and_replaced() -> None:
    # With the default step of 6e-6, a parameter of 1e-9 is moved by thousands of times its size.
    def scaled(w: np.ndarray, batch: Any) -> float:
        return float(np.cos(w[0] * 1e9))

    result = trained(scaled, np.array([1e-9]), steps=1, learning_rate=1e-18)
    slope = (1e-9 - result.params[0]) / 1e-18
    assert slope == pytest.approx(-1e9 * np.sin(1.0), rel=1e-3)


def test_what_is_not_settled_is_counted_and_reported_once() -> None:
    result = trained(lambda w, batch: abs(float(w[0])) + float(w[1] ** 2), np.array([0.0, 1.0]), steps=5, h=1e-3)
    assert result.metrics[0]["n_unsettled"] == 1
    texts = [row["text"] for row in result.events if row["event"] == "not_settled"]
    assert len(texts) == 1
    assert "KINK" in texts[0]
    assert "params[0]" in texts[0]


def test_a_loss_that_changes_its_batch_is_named() -> None:
    def changes(w: np.ndarray, batch: np.ndarray) -> float:
        batch += 1.0
        return float((w * batch.sum()).sum())

    with pytest.raises(InputError, match="the function changes its argument batch"):
        trained(changes, data=np.ones((4, 2)), batch_size=2, steps=1)


def test_a_loss_that_changes_further_arguments_is_named(evaluator: distnum.Evaluator) -> None:
    def changes(w: np.ndarray, batch: Any, seen: list[float]) -> float:
        seen.append(float(w[0]))
        return loss(w, batch)

    for workers in (0, evaluator):
        with pytest.raises(InputError, match=r"the function changes its argument args\[0\]"):
            trained(changes, args=([],), workers=workers, steps=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), r"the loss returned shape \(2,\); it must return one real number"),
        ({"a": 1.0}, "the loss returned"),
        (1j, "the loss returned a complex number"),
        (1 + 0j, "the loss returned a complex number"),
        (None, "the loss returned None"),
    ],
    ids=str,
)
def test_what_is_not_one_real_number_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(lambda w, batch: value, steps=1)


# --- failures -------------------------------------------------------------------


def failing(w: np.ndarray, batch: Any) -> float:
    if w[1] < 0:
        raise ValueError("negative")
    return loss(w, batch)


def test_failures_cost_one_parameter_of_one_step() -> None:
    result = trained(failing, on_error="nan", steps=3)
    assert result.params[1] == 0  # it cannot be moved
    assert result.params[0] > 0.3
    (event,) = (row for row in result.events if row["event"] == "evaluations_failed")
    assert "params[1] was moved by -6" in event["text"]
    assert "ValueError: negative" in event["text"]
    assert "1 parameter keeps its value" in event["text"]


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
def test_a_parameter_without_a_derivative_keeps_its_value(optimizer: str) -> None:
    now = {"params": np.zeros(3)}

    def fails_in_step_3(w: np.ndarray, step: int) -> float:
        if step == 3 and w[1] != now["params"][1]:
            raise ValueError("no")
        return loss(w, None)

    values = []

    def keep(step: Any, row: Any) -> None:
        now["params"] = step.params
        values.append(step.params[1])

    options = {"data": lambda step: step, "optimizer": optimizer, "on_error": "nan", "weight_decay": 0.01}
    trained(fails_in_step_3, **options, steps=4, on_step=keep)
    assert values[0] != values[1]
    assert values[1] == values[2]
    assert values[2] != values[3]


def test_differences_on_the_side_that_does_not_fail() -> None:
    def rises(w: np.ndarray, batch: Any) -> float:
        return failing(w, batch) - 6 * float(w[1])

    result = trained(rises, on_error="one-sided", steps=40)
    np.testing.assert_allclose(result.params, TARGET + np.array([0, 3, 0]), atol=1e-3)


def test_without_on_error_an_exception_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="negative"):
        trained(failing)


def test_a_loss_without_a_value_is_skipped_if_that_is_asked_for() -> None:
    def sometimes(w: np.ndarray, batch: int) -> float:
        if batch == 2:
            raise ValueError("no data")
        return loss(w, None)

    options = {"data": lambda step: step, "steps": 3, "on_error": "nan"}
    rows = trained(sometimes, on_nonfinite="skip", **options).metrics
    assert [row.get("skipped", False) for row in rows] == [False, True, False]
    no_value = r"The function has no value at params itself: ValueError: no data \(step 2\)\.$"
    with pytest.raises(NotFiniteError, match=no_value):
        trained(sometimes, **options)


@pytest.mark.slow
@pytest.mark.ray
def test_hangs_and_crashes_on_workers_cost_their_points(tmp_path: Path) -> None:
    def trouble(w: np.ndarray, batch: Any) -> float:
        if w[0] > 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        while w[2] > 0:
            time.sleep(0.01)
        return loss(w, batch)

    result = trained(trouble, steps=1, workers=2, timeout=1.0, on_error="nan", out=tmp_path / "run")
    np.testing.assert_allclose(result.params, [0, -0.8, 0], atol=1e-6)
    assert result.metrics[0]["n_unsettled"] == 2


def test_killed_workers_change_nothing(evaluator: distnum.Evaluator) -> None:
    def slow(w: np.ndarray, batch: Any) -> float:
        time.sleep(0.002)
        return loss(w, batch)

    def kill(step: Any, row: Any) -> None:
        if step.step in (2, 4):
            os.kill(evaluator.worker_pids[0], signal.SIGKILL)

    result = trained(slow, steps=6, workers=evaluator, on_step=kill)
    assert result.params_sha256 == trained(steps=6).params_sha256
    assert [row["loss_evaluations"] for row in result.metrics] == [7] * 6


# --- ends, resuming -------------------------------------------------------------


def test_a_deadline_ends_the_training_and_keeps_it(tmp_path: Path) -> None:
    def slow(w: np.ndarray, batch: Any) -> float:
        time.sleep(0.01)
        return loss(w, batch)

    result = trained(slow, steps=100_000, deadline=0.5, out=tmp_path / "run")
    assert not result.completed
    n_done = len(result.metrics)
    assert 0 < n_done < 20
    assert result.events[-1]["event"] == "deadline"
    again = trained(slow, steps=n_done + 1, out=tmp_path / "run", resume=True)
    assert again.completed
    assert again.params_sha256 == trained(steps=n_done + 1).params_sha256


def test_a_run_is_continued_with_the_same_options_only(tmp_path: Path) -> None:
    trained(steps=2, out=tmp_path / "run", bounds=(-5, 5))
    again = {"steps": 4, "out": tmp_path / "run", "resume": True}
    with pytest.raises(
        InputError, match=r"bounds is missing: .* was trained with it up to step 2; give the same again"
    ):
        trained(**again)
    with pytest.raises(InputError, match="bounds is not what it was"):
        trained(**again, bounds=(-5, 6))
    with pytest.raises(InputError, match=r"indices is given, but .* was trained with none up to step 2; leave it out"):
        trained(**again, bounds=(-5, 5), indices=[0, 1])
    # Steps without a failure are the same whatever is done about failures.
    assert trained(**again, bounds=(-5, 5), on_error="nan", retries=1).completed


def test_arrays_of_equal_steps_and_arguments_are_compared_too(tmp_path: Path) -> None:
    def power(w: np.ndarray, batch: Any, exponent: int) -> float:
        return float(((w - TARGET) ** exponent).sum())

    options = {"h": np.full(3, 0.1), "args": (2,), "out": tmp_path / "run"}
    trained(power, **options, steps=2)
    for changed in ({"h": np.full(3, 0.5)}, {"args": (4,)}):
        with pytest.raises(InputError, match=f"{next(iter(changed))} is not what it was"):
            trained(power, **{**options, **changed}, steps=4, resume=True)


STOPPED = """
import sys, time
from pathlib import Path
import numpy as np
import distnum

def slow(w, batch):
    with open(sys.argv[1] + "/calls", "a") as file:
        file.write(repr(w.tolist()) + "\\n")
    time.sleep(float(sys.argv[2]))
    return float(((w - 3) ** 2).sum())

result = distnum.train(slow, np.zeros(20), steps=2, workers=0, out=sys.argv[1] + "/run", resume=sys.argv[3] == "again")
print(result.params_sha256)
"""


@pytest.mark.parametrize("where", ["run", pytest.param("store", marks=pytest.mark.slow)])
def test_a_killed_driver_loses_only_the_evaluations_in_flight(tmp_path: Path, where: str) -> None:
    script = STOPPED if where == "run" else STOPPED.replace("workers=0", "workers=0, store=sys.argv[1] + '/store'")

    def start(seconds: float, again: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", script, str(tmp_path), str(seconds), again]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    calls = tmp_path / "calls"
    with start(0.3, "new") as process:
        deadline = time.monotonic() + 60
        while not calls.exists() or len(calls.read_text().splitlines()) < 12:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    process = start(0.0, "again")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    done = calls.read_text().splitlines()
    first_step = [line for line in done if done.count(line) > 1]
    # The loss at the parameters is compared with the one that was kept, and one evaluation was in flight; some that
    # took 0.3 s may not have been written yet.
    assert len(set(first_step)) <= 6
    assert (
        printed.strip()
        == distnum.train(lambda w, batch: float(((w - 3) ** 2).sum()), np.zeros(20), steps=2, workers=0).params_sha256
    )
    assert not (tmp_path / "run" / "unfinished").exists()


CALLS = {"left": 0}


def interrupted(w: np.ndarray, batch: Any) -> float:
    if not CALLS["left"]:
        raise KeyboardInterrupt
    CALLS["left"] -= 1
    time.sleep(0.06)  # each is given to the store by itself
    return float(((w - 3) ** 2).sum())


def test_what_is_kept_of_a_long_step_outlives_a_resumed_run_that_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"params": np.zeros(10), "steps": 1, "out": tmp_path / "run"}
    monkeypatch.setattr(kept_evaluations, "_LONG_S", 0.0)
    CALLS["left"] = 8
    with pytest.raises(KeyboardInterrupt):
        trained(interrupted, **options)
    monkeypatch.setattr(kept_evaluations, "_LONG_S", 1000.0)
    CALLS["left"] = 1
    with pytest.raises(KeyboardInterrupt):
        trained(interrupted, **options, resume=True)
    CALLS["left"] = 1000
    assert trained(interrupted, **options, resume=True).completed
    assert CALLS["left"] > 1000 - 21 + 6  # at least seven are not repeated
    assert not (tmp_path / "run" / "unfinished").exists()


def test_a_store_tells_the_batches_of_steps_apart(tmp_path: Path) -> None:
    def rows(w: np.ndarray, batch: np.ndarray) -> float:
        return float((w * batch.sum()).sum())

    options = {"params": np.ones(2), "data": np.arange(8.0).reshape(4, 2), "batch_size": 1, "steps": 4}
    options |= {"learning_rate": 1e-300}  # the parameters stay, only the batch differs
    expected = [row["loss"] for row in trained(rows, **options).metrics]
    assert len(set(expected)) > 1
    for again in (False, True):
        result = trained(rows, **options, store=tmp_path / "store")
        assert [row["loss"] for row in result.metrics] == expected, again
    other = trained(rows, **{**options, "seed": 1}, store=tmp_path / "store")
    assert [row["loss"] for row in other.metrics] == [row["loss"] for row in trained(rows, **options, seed=1).metrics]


def test_short_steps_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    kept = kept_evaluations.KeptEvaluations(folder)
    seen = []

    def watched(w: np.ndarray, batch: int) -> float:
        seen.append((batch, folder.exists()))
        return loss(w, batch)

    from distnum.training.function_pool import FunctionPool
    from distnum.training.prepare import prepare

    job = prepare(watched, np.zeros(3), lambda step: step, None, {"workers": 0})
    with FunctionPool(job.subject.request, job.config, kept=kept) as pool:  # type: ignore[union-attr]
        for step in (1, 2):
            pool.compute(step, np.zeros(3))
    assert {there for step, there in seen if step == 1} == {True}
    assert {there for step, there in seen if step == 2} == {False}
    assert not folder.exists()


# --- estimates ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ray
def test_the_function_is_estimated_on_a_worker_and_never_called_in_the_driver(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def waits(w: np.ndarray, batch: Any) -> float:
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.05)
        return float(w @ w)

    started: list[Any] = []
    result = distnum.train(
        waits,
        np.zeros(8),
        steps=1,
        workers="auto",
        on_start=lambda pool, step_s: started.append((pool.n_workers, step_s)),
    )
    assert result.completed
    assert str(os.getpid()) not in pids.read_text().split()
    ((n_workers, step_s),) = started
    assert step_s == pytest.approx(0.05 * ceil(17 / n_workers), rel=0.5)


def test_kept_runs_hold_the_number_of_evaluations(tmp_path: Path) -> None:
    trained(steps=2, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss_evaluations"] for row in rows] == [7, 7]
    assert [row["n_unsettled"] for row in rows] == [0, 0]
