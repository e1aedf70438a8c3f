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


@pytest.mark.parametrize("name", ["segfault", "exit", "own exit", "exit of C", "kill"])
def test_a_function_that_ends_its_process_loses_that_point_only(backend: RayBackend, name: str) -> None:
    def end() -> None:
        if name == "segfault":
            ctypes.string_at(0)
        elif name == "exit":
            os._exit(7)
        elif name == "exit of C":
            ctypes.CDLL(None).exit(7)
        elif name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise SystemExit(7)

    failure = only_3_fails(backend, end)
    kind, text = {
        "segfault": ("crash", "the function crashed its process: Segmentation fault (SIGSEGV)"),
        "exit": ("crash", "the function ended its process: os._exit(7)"),
        "own exit": ("exception", "the function ended its process: sys.exit(7)"),
        "exit of C": ("crash", "the function ended its process with exit status 7"),
        "kill": ("crash", "the function ended its process: os.kill(os.getpid(), SIGKILL)"),
    }[name]
    assert (failure.kind, failure.text) == (kind, text)
    assert failure.attempts == 1
    assert "in end" in failure.traceback or name == "exit of C"


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_from_outside_costs_nothing(
    backend: RayBackend, tmp_path: Path, number: signal.Signals
) -> None:
    def fun(x: np.ndarray) -> float:
        if x[3] and not (tmp_path / "pid").exists():
            (tmp_path / "writing").write_text(str(os.getpid()))
            (tmp_path / "writing").rename(tmp_path / "pid")
            time.sleep(1000)
        return float(x.sum())

    def kill() -> None:
        until((tmp_path / "pid").exists)
        os.kill(int((tmp_path / "pid").read_text()), number)

    killer = threading.Thread(target=kill)
    killer.start()
    values, failures = evaluated(backend, fun, raises=True)
    killer.join()
    assert failures == {}
    assert values[3].tolist() == [100.0]


@pytest.mark.slow
def test_a_point_whose_workers_are_always_killed_is_lost(backend: RayBackend) -> None:
    def kill() -> None:
        ctypes.CDLL(None).kill(os.getpid(), signal.SIGKILL)

    failure = only_3_fails(backend, kill)
    assert failure.kind == "lost"
    assert failure.text.startswith("workers were lost 4 times")
    assert "without a trace: it was killed (SIGKILL)" in failure.text
    with pytest.raises(LostError, match=r"Workers were lost 4 times.* where x\[3\] is moved"):
        evaluated(backend, lambda x: kill() or 0.0 if x[3] else 0.0, raises=True)  # type: ignore[func-returns-value]


class CrashesWhenUnpickled:
    """A function that crashes every process that it is sent to."""

    def __reduce__(self) -> Any:
        return ctypes.string_at, (0,)

    def __call__(self, x: np.ndarray) -> float:
        return 0.0


@pytest.mark.slow
def test_a_function_that_crashes_when_it_is_unpickled_ends_the_call(backend: RayBackend) -> None:
    with pytest.raises(LostError, match="were lost without any finished evaluation in between"):
        evaluated(backend, CrashesWhenUnpickled())
    assert evaluated(backend, lambda x: 1.0)[1] == {}


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


# So many points, of some milliseconds each, that workers get their tasks ahead.
MANY, MIDDLE = 400, 100


def with_tasks_ahead(
    backend: RayBackend, fun: Callable[[np.ndarray], float], **limits: Any
) -> tuple[Iterator[Any], list[Any]]:
    """A stream of outcomes of many points, and those that it has yielded until every worker had a task ahead."""
    form, points = points_of(MANY)
    stream = backend.evaluate(FunctionCall(fun, form), points, Limits(**({"raises": False} | limits)), where)
    yielded = [next(stream)]
    while not all(worker.ahead for worker in backend._team.workers):
        yielded.append(next(stream))
    return stream, yielded


def test_a_worker_begins_its_next_task_without_the_driver(backend: RayBackend, tmp_path: Path) -> None:
    def fun(x: np.ndarray) -> float:
        time.sleep(0.003)
        (tmp_path / str(x.argmax())).touch()
        return 1.0

    stream, _ = with_tasks_ahead(backend, fun)  # which asks for nothing while it is not read
    ahead = [number for worker in backend._team.workers for number in worker.ahead.task.numbers.tolist()]
    assert ahead
    until(lambda: all((tmp_path / str(number)).exists() for number in ahead))
    assert sum(len(outcomes.numbers) for outcomes in stream) < MANY


@pytest.mark.parametrize("ends", ["exit", "hangs", "raises"])
def test_one_point_among_tasks_ahead_fails_alone(backend: RayBackend, tmp_path: Path, ends: str) -> None:
    def fun(x: np.ndarray) -> float:
        with (tmp_path / str(x.argmax())).open("a") as file:
            file.write(".")
        if x[MIDDLE]:
            if ends == "exit":
                os._exit(7)
            if ends == "raises":
                raise ValueError("no fuel")
            time.sleep(1000)
        time.sleep(0.003)
        return float(x @ np.arange(len(x)))

    values, failures = evaluated(backend, fun, MANY, timeout=0.5 if ends == "hangs" else None)
    assert {number: failure.kind for number, failure in failures.items()} == {
        MIDDLE: {"exit": "crash", "hangs": "timeout", "raises": "exception"}[ends]
    }
    assert all(values[number].tolist() == [100.0 * number] for number in range(MANY) if number != MIDDLE)


def test_a_worker_that_is_killed_with_tasks_ahead_costs_nothing(backend: RayBackend) -> None:
    def fun(x: np.ndarray) -> float:
        time.sleep(0.003)
        return float(x.sum())

    stream, yielded = with_tasks_ahead(backend, fun)
    killed = backend._team.workers[0]
    os.kill(killed.pid, signal.SIGKILL)
    yielded += stream
    assert sorted(number for outcomes in yielded for number in outcomes.numbers) == list(range(MANY))
    assert not any(outcomes.failures for outcomes in yielded)


def test_an_exception_is_raised_although_there_are_tasks_ahead(backend: RayBackend) -> None:
    def fun(x: np.ndarray) -> float:
        time.sleep(0.003)
        if x[MIDDLE]:
            raise ValueError("no fuel")
        return 0.0

    evaluated(backend, lambda x: 1.0)
    pids = backend.worker_pids
    for _ in range(2):
        with pytest.raises(ValueError, match="no fuel"):
            evaluated(backend, fun, MANY, raises=True)
        assert evaluated(backend, lambda x: 1.0)[1] == {}
        assert backend.worker_pids == pids


def test_tasks_ahead_that_are_abandoned_do_not_disturb_the_next_call(backend: RayBackend) -> None:
    def fun(x: np.ndarray) -> float:
        time.sleep(0.003)
        return 5.0

    stream, _ = with_tasks_ahead(backend, fun)
    pids = backend.worker_pids
    stream.close()  # type: ignore[attr-defined]
    values, failures = evaluated(backend, lambda x: 6.0)
    assert failures == {}
    assert {float(value[0]) for value in values.values()} == {6.0}
    assert backend.worker_pids == pids


def test_points_behind_one_that_hangs_are_evaluated_by_others(backend: RayBackend, tmp_path: Path) -> None:
    def fun(x: np.ndarray) -> float:
        if x[MIDDLE] and not (tmp_path / "first").exists():
            (tmp_path / "first").touch()
            until((tmp_path / "end").exists, 60)
        time.sleep(0.003)
        return float(x.sum())

    values, failures = evaluated(backend, fun, MANY)
    assert failures == {}
    assert all(value.tolist() == [100.0] for value in values.values())
    (tmp_path / "end").touch()
    assert evaluated(backend, lambda x: 1.0)[1] == {}


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
