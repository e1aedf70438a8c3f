"""Evaluations on Ray workers: the same outcomes on any number of them, whatever the function does to its process."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from distnum.common.errors import EvaluationError, InputError, LostError, TrainingError
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.forms import Form
from distnum.evaluation.outcomes import Failure, Limits
from distnum.evaluation.points import Points
from distnum.evaluation.ray_workers.backend import RayBackend
from distnum.workers.ray_pool.session import RaySession

N = 12


@contextlib.contextmanager
def over_sockets() -> Iterator[None]:
    """Let teams use sockets in the session of the tests, as in one that distnum has started."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="distnum-") as folder:
        session = RaySession(ray, Path(folder), shared=True)  # so that workers ask for no CPUs
        patch.setattr("distnum.workers.ray_pool.team.ray_session", lambda *_: contextlib.nullcontext(session))
        yield


@pytest.fixture(scope="module", params=["sockets", pytest.param("calls", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest, ray_session: None) -> Iterator[RayBackend]:
    """Two workers that stay for all tests of this module."""
    with over_sockets() if request.param == "sockets" else contextlib.nullcontext(), RayBackend(2) as made:
        yield made


def points_of(n: int) -> tuple[Form, Points]:
    """Point ``k`` of ``n`` moves ``x[k]`` to 100."""
    form, flat = Form.of(np.zeros(n), "x")
    return form, Points.moved(flat, np.arange(n), np.full(n, 100.0))


def where(number: int) -> str:
    return f"where x[{number}] is moved"


def evaluated(
    backend: RayBackend, fun: Callable[[Any], Any], n: int = N, **limits: Any
) -> tuple[dict[int, np.ndarray], dict[int, Failure]]:
    """Values and failures of all points, by their numbers."""
    form, points = points_of(n)
    values: dict[int, np.ndarray] = {}
    failures: dict[int, Failure] = {}
    limits = {"raises": False} | limits
    for outcomes in backend.evaluate(FunctionCall(fun, form), points, Limits(**limits), where):
        assert values.keys().isdisjoint(outcomes.numbers.tolist())
        values |= dict(zip(outcomes.numbers.tolist(), outcomes.values, strict=True))
        failures |= outcomes.failures
    assert sorted(values) == list(range(n))
    return values, failures


def only_3_fails(backend: RayBackend, at_3: Callable[[], object], **limits: Any) -> Failure:
    """The failure at point 3 of a function that does something there; all others have their values."""

    def fun(x: np.ndarray) -> float:
        if x[3]:
            at_3()
        return float(x @ np.arange(len(x)))

    values, failures = evaluated(backend, fun, **limits)
    assert list(failures) == [3]
    assert all(values[number].tolist() == [100.0 * number] for number in range(N) if number != 3)
    return failures[3]


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def processes_of(mark: str) -> list[int]:
    return [one.pid for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]


@pytest.mark.parametrize("n_workers", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_outcomes(ray_session: None, backend: RayBackend, n_workers: int) -> None:
    def fun(x: np.ndarray) -> np.ndarray:
        return np.array([np.sin(x).sum() / 3, np.exp(-x).sum()])

    expected, _ = evaluated(backend, fun, 500)
    with over_sockets(), RayBackend(n_workers) as other:
        values, failures = evaluated(other, fun, 500)
    assert failures == {}
    assert all(values[number].tobytes() == expected[number].tobytes() for number in expected)


def test_a_function_is_sent_once_and_the_second_call_sends_only_numbers(
    backend: RayBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.arange(1_000_000.0)
    sent: list[Any] = []
    put = backend._team.ray.put

    class Ray:
        def put(self, value: Any) -> Any:
            sent.append(value)
            return put(value)

    monkeypatch.setattr(backend._functions, "_ray", Ray())

    def fun(x: np.ndarray) -> float:
        return float(x.sum() + data[7])

    for _ in range(3):
        values, _ = evaluated(backend, fun)
        assert values[5].tolist() == [107.0]
    assert len(sent) == 1
    assert len(sent[0]) > data.nbytes
    data[7] = 8
    assert evaluated(backend, fun)[0][5].tolist() == [108.0]
    assert len(sent) == 2


def test_workers_keep_some_functions(backend: RayBackend) -> None:
    def fun_of(k: int) -> Callable[[np.ndarray], float]:
        return lambda x: float(x.sum() + k)

    for _ in range(2):
        for k in range(backend._functions.MOST + 2):
            assert evaluated(backend, fun_of(k))[0][0].tolist() == [100.0 + k]


@pytest.mark.parametrize("name", ["segfault", "exit", "own exit"])
def test_a_function_that_ends_its_process_loses_that_point_only(backend: RayBackend, name: str) -> None:
    def end() -> None:
        if name == "segfault":
            ctypes.string_at(0)
        elif name == "exit":
            os._exit(7)
        else:
            raise SystemExit(7)

    failure = only_3_fails(backend, end)
    kind, text = {
        "segfault": ("crash", "the function crashed its process: Segmentation fault (SIGSEGV)"),
        "exit": ("crash", "the function ended its process: os._exit(7)"),
        "own exit": ("exception", "the function ended its process: sys.exit(7)"),
    }[name]
    assert (failure.kind, failure.text) == (kind, text)
    assert "in end" in failure.traceback


def test_a_crash_is_raised_with_its_place(backend: RayBackend) -> None:
    with pytest.raises(EvaluationError, match=r"os\._exit\(7\) where x\[3\] is moved, on worker \d+ \(") as caught:
        evaluated(backend, lambda x: os._exit(7) if x[3] else 0.0, raises=True)
    assert "in <lambda>" in str(caught.value.__cause__)
    assert evaluated(backend, lambda x: 1.0)[1] == {}


def test_a_crash_is_tried_again_as_often_as_asked(backend: RayBackend, tmp_path: Path) -> None:
    def fun(x: np.ndarray) -> float:
        if x[0]:
            with (tmp_path / "tries").open("a+") as file:
                file.write(".")
                file.flush()
                if file.tell() <= 2:
                    os._exit(1)
        return 1.0

    assert evaluated(backend, fun, 1, retries=1)[1][0].attempts == 2
    assert evaluated(backend, fun, 1, retries=1)[1] == {}
    (tmp_path / "tries").write_text(".")
    form, points = points_of(1)
    outcomes = list(backend.evaluate(FunctionCall(fun, form), points, Limits(retries=1, raises=False), where))
    assert [one.retried for one in outcomes if 0 in one.numbers.tolist()] == [{0: 1}]


def test_a_worker_that_is_killed_from_outside_costs_nothing(backend: RayBackend, tmp_path: Path) -> None:
    def fun(x: np.ndarray) -> float:
        if x[3] and not (tmp_path / "pid").exists():
            (tmp_path / "writing").write_text(str(os.getpid()))
            (tmp_path / "writing").rename(tmp_path / "pid")
            time.sleep(1000)
        return float(x.sum())

    def kill() -> None:
        until((tmp_path / "pid").exists)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    values, failures = evaluated(backend, fun, raises=True)
    killer.join()
    assert failures == {}
    assert values[3].tolist() == [100.0]


@pytest.mark.slow
def test_a_point_whose_workers_are_always_killed_is_lost(backend: RayBackend) -> None:
    failure = only_3_fails(backend, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert failure.kind == "lost"
    assert failure.text.startswith("workers were lost 4 times")
    with pytest.raises(LostError, match=r"Workers were lost 4 times.* where x\[3\] is moved"):
        evaluated(backend, lambda x: os.kill(os.getpid(), signal.SIGKILL) if x[3] else 0.0, raises=True)


def test_an_evaluation_that_hangs_ends_with_its_children(backend: RayBackend) -> None:
    mark = f"{os.getpid()}{time.time_ns() % 1_000_000:06}"

    def hang() -> None:
        subprocess.Popen(["sleep", mark])
        subprocess.Popen(["sleep", mark], start_new_session=True)
        time.sleep(1000)

    failure = only_3_fails(backend, hang, timeout=0.5)
    assert (failure.kind, failure.text) == ("timeout", "the function took longer than its time limit of 0.5 s")
    assert "time.sleep(1000)" in failure.traceback
    until(lambda: not processes_of(mark))


@pytest.mark.slow
def test_an_evaluation_that_hangs_in_c_code_with_the_global_lock_is_ended(backend: RayBackend) -> None:
    failure = only_3_fails(backend, lambda: ctypes.PyDLL(None).sleep(1000), timeout=0.3)
    assert failure.kind == "timeout"
    assert "global lock" in failure.text


def test_children_of_a_function_that_crashes_end(backend: RayBackend) -> None:
    mark = f"{os.getpid()}{time.time_ns() % 1_000_000:06}"

    def crash() -> None:
        subprocess.Popen(["sleep", mark])
        ctypes.string_at(0)

    assert only_3_fails(backend, crash).kind == "crash"
    until(lambda: not processes_of(mark))


class TwoPartError(Exception):
    """An exception that takes other arguments than it keeps."""

    def __init__(self, part: str, problem: str) -> None:
        super().__init__(f"{part} has {problem}")


def test_an_exception_reaches_the_user_with_its_place_and_traceback(backend: RayBackend) -> None:
    def simulate(x: np.ndarray) -> float:
        if x[3]:
            raise FileNotFoundError("no fuel")
        return 0.0

    with pytest.raises(FileNotFoundError, match="no fuel") as caught:
        evaluated(backend, simulate, raises=True)
    assert "in simulate" in str(caught.value.__cause__)
    if hasattr(caught.value, "__notes__"):
        assert "where x[3] is moved, on worker" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", ["unpicklable", "other arguments"])
def test_an_exception_that_cannot_be_sent_is_told(backend: RayBackend, kind: str) -> None:
    def fun(x: np.ndarray) -> float:
        if x[3]:
            error = TwoPartError("tank", "no fuel")
            if kind == "unpicklable":
                error = RuntimeError("tank has no fuel", threading.Lock())
            raise error
        return 0.0

    with pytest.raises(TrainingError, match=r"the function raised (TwoPart|Runtime)Error.*tank.* has no fuel"):
        evaluated(backend, fun, raises=True)
    failure = evaluated(backend, fun)[1][3]
    assert failure.kind == "exception"
    assert "in fun" in failure.traceback


def test_what_was_finished_is_yielded_before_an_exception(backend: RayBackend) -> None:
    form, points = points_of(40)

    def fun(x: np.ndarray) -> float:
        if x[39]:
            raise ValueError("no fuel")
        return float(x.sum())

    finished: list[int] = []
    with pytest.raises(ValueError, match="no fuel"):  # noqa: PT012
        for outcomes in backend.evaluate(FunctionCall(fun, form), points, Limits(), where):
            finished += outcomes.numbers.tolist()
    assert 39 in finished


def test_points_that_are_abandoned_do_not_disturb_the_next_call(backend: RayBackend, tmp_path: Path) -> None:
    form, points = points_of(50)

    def slow(x: np.ndarray) -> float:
        until((tmp_path / "end").exists, 1000)
        return -1.0

    def first_at_once(x: np.ndarray) -> float:
        return slow(x) if x[0] == 0 else 0.0

    stream = backend.evaluate(FunctionCall(first_at_once, form), points, Limits(), where)
    assert next(stream).numbers.tolist() == [0]
    stream.close()  # type: ignore[attr-defined]
    values, failures = evaluated(backend, lambda x: 5.0)  # the worker that is not busy, or new ones
    assert failures == {}
    assert {float(value[0]) for value in values.values()} == {5.0}
    (tmp_path / "end").touch()
    assert evaluated(backend, lambda x: 6.0)[1] == {}


def test_a_worker_is_not_waited_for_if_another_one_has_finished_its_points(backend: RayBackend, tmp_path: Path) -> None:
    def fun(x: np.ndarray) -> float:
        if x[3] and not (tmp_path / "first").exists():
            (tmp_path / "first").touch()
            until((tmp_path / "end").exists, 1000)
        return float(x.sum())

    evaluated(backend, fun, 3)  # how long it takes
    values, failures = evaluated(backend, fun, raises=True)
    assert values[3].tolist() == [100.0]
    assert failures == {}
    (tmp_path / "end").touch()
    assert evaluated(backend, fun)[1] == {}


def test_a_second_call_of_the_same_thread_ends_the_first(backend: RayBackend) -> None:
    form, points = points_of(200)
    stream = backend.evaluate(FunctionCall(lambda x: 0.0, form), points, Limits(), where)
    next(stream)
    assert evaluated(backend, lambda x: 1.0)[1] == {}
    with pytest.raises(InputError, match="a later call of the same thread has ended this one"):
        next(stream)


def test_a_call_within_a_call_is_refused(backend: RayBackend) -> None:
    def where_else(number: int) -> str:
        evaluated(backend, lambda x: 1.0)
        return where(number)

    form, points = points_of(3)
    stream = backend.evaluate(FunctionCall(lambda x: 1 / 0, form), points, Limits(), where_else)
    with pytest.raises(InputError, match="within which this one is made"):
        list(stream)
    assert evaluated(backend, lambda x: 1.0)[1] == {}


def test_calls_of_other_threads_wait(backend: RayBackend) -> None:
    got: list[dict[int, np.ndarray]] = []
    threads = [threading.Thread(target=lambda: got.append(evaluated(backend, lambda x: 2.0)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(values) for values in got] == [N] * 4


def test_a_function_that_cannot_be_sent_is_refused(backend: RayBackend) -> None:
    lock = threading.Lock()
    with pytest.raises(InputError, match="cannot be pickled"):
        evaluated(backend, lambda x: float(lock.locked()))


def test_a_function_that_changes_its_argument_is_named(backend: RayBackend) -> None:
    def fun(x: np.ndarray) -> float:
        x += 1
        return 0.0

    with pytest.raises(InputError, match="the function changes its argument"):
        evaluated(backend, fun)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_of_the_driver_is_refused(backend: RayBackend) -> None:
    def child(queue: Any) -> None:
        try:
            evaluated(backend, lambda x: 1.0)
        except InputError as error:
            queue.put(str(error))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(60)
    assert "copy (fork)" in queue.get()
    assert evaluated(backend, lambda x: 1.0)[1] == {}


def test_outcomes_can_be_pickled(backend: RayBackend) -> None:
    form, points = points_of(3)
    for outcomes in backend.evaluate(FunctionCall(lambda x: 1.0, form), points, Limits(), where):
        assert pickle.loads(pickle.dumps(outcomes)).numbers.tolist() == outcomes.numbers.tolist()
