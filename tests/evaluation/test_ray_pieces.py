"""Pieces of the evaluation on Ray that need no Ray: sizes of tasks, copies, tries, messages, and records of ends."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum.common.errors import LostError
from distnum.evaluation.outcomes import Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.ray_workers.copies import Copies
from distnum.evaluation.ray_workers.deaths import Deaths
from distnum.evaluation.ray_workers.ends import End, end_of
from distnum.evaluation.ray_workers.messages import EvaluationTask, packed_outcomes, unpacked_outcomes, unpacked_task
from distnum.evaluation.ray_workers.pace import Pace, task_size
from distnum.evaluation.ray_workers.supply import Supply
from distnum.evaluation.ray_workers.tries import Tries
from distnum.evaluation.values import flat_value
from distnum.workers.ray_pool.channel import Channel, RayWorker


def supply(n: int) -> Supply:
    numbers = iter(range(n))
    return Supply(lambda most: np.array([next(numbers) for _ in range(min(most, numbers.__length_hint__()))], np.int64))


@given(st.integers(1, 10**6), st.integers(1, 1000), st.one_of(st.none(), st.floats(0, 1e5)))
def test_a_task_has_at_least_one_point_and_no_more_than_there_are(n_left: int, n_workers: int, seconds: float) -> None:
    assert 1 <= task_size(n_left, n_workers, seconds) <= n_left


def test_tasks_are_short_and_become_shorter_at_the_end() -> None:
    sizes = [task_size(n_left, 4, 0.001) for n_left in (10_000, 100, 10, 3)]
    assert sizes == [50, 13, 2, 1]
    assert task_size(10_000, 4, 3600.0) == 1


def test_points_that_are_given_back_are_taken_again() -> None:
    points = supply(10)
    first = points.take(6)
    points.give_back(first[4:])
    points.give_back_singly(np.array([1]))
    assert points.n_returned == 3
    taken = [points.take(3).tolist() for _ in range(4)]
    assert taken == [[1], [4, 5], [6, 7, 8], [9]]


def test_a_slow_worker_is_given_nothing_that_the_others_finish_earlier() -> None:
    pace: Pace[str] = Pace(None)
    for worker in "abcd":
        pace.learn(worker, np.array([10.0 if worker == "d" else 1.0]))
    assert pace.seconds == 1.0
    assert not pace.is_too_slow("d", 100, 4)
    assert pace.is_too_slow("d", 12, 4)
    assert not pace.is_too_slow("a", 1, 4)
    assert pace.fastest_first("dab") == ["a", "b", "d"]


def test_a_worker_gets_two_tasks_if_it_finishes_both_before_the_others_finish_the_rest() -> None:
    pace: Pace[str] = Pace(0.01)
    assert not pace.has_time_for_more("a", 1, 10_000, 4)  # it is not known how fast this one is
    for worker in "abcd":
        pace.learn(worker, np.array([0.1 if worker == "d" else 0.01]))
    assert pace.has_time_for_more("a", 5, 1000, 4)
    assert not pace.has_time_for_more("a", 5, 40, 4)
    assert pace.has_time_for_more("d", 1, 1000, 4)
    assert not pace.has_time_for_more("d", 1, 70, 4)
    pace.learn("d", np.full(10, 3600.0))
    assert not pace.has_time_for_more("d", 1, 10**9, 4)


def test_of_copied_points_the_first_result_counts_and_the_last_loss() -> None:
    copies = Copies()
    numbers = np.array([3, 4])
    assert copies.add(numbers).tolist() == [3, 4]
    assert copies.add(np.array([3, 4, 5])).tolist() == [5]
    assert copies.finished(np.array([3])) == set()
    assert copies.finished(np.array([3])) == {3}
    assert copies.ended(np.array([4])).tolist() == []  # another worker still has it
    assert copies.ended(np.array([4])).tolist() == [4]
    assert copies.are_done(np.array([3]))
    assert not copies.are_done(numbers)


def test_deaths_without_a_known_cause_are_not_charged_to_the_point() -> None:
    tries = Tries(retries=1)
    lost, crash = End("lost", "its node is lost.", ""), End("crash", "crashed its process", "here")
    assert [tries.failure(7, lost, "host") for _ in range(3)] == [None] * 3
    assert tries.failure(7, crash, "host") is None
    failure = tries.failure(7, crash, "host")
    assert failure == Failure("crash", "the function crashed its process", "here", 5, "host")
    failure = tries.failure(7, lost, "host")
    assert failure is not None
    assert failure.kind == "lost"


RAYS_WORDS = "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."


def test_only_a_kill_of_these_moments_is_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    n_kills = 7
    for module in ("distnum.evaluation.ray_workers.deaths", "distnum.workers.ray_pool.reasons"):
        monkeypatch.setattr(f"{module}.n_oom_kills", lambda: n_kills)
    deaths = Deaths(None, SimpleNamespace(here="here"))  # type: ignore[arg-type]
    worker = RayWorker(1, None, None, node="here", n_oom_kills=2)  # processes were killed since its start
    deaths.look()
    assert deaths.end_of(worker, Exception(RAYS_WORDS)).kind == "lost"
    n_kills = 8
    deaths.look()
    assert deaths.end_of(worker, Exception(RAYS_WORDS)).kind == "crash"


def test_a_death_that_leaves_no_trace_names_what_does_not(tmp_path: Path) -> None:
    deaths = Deaths(None, SimpleNamespace(here="here"))  # type: ignore[arg-type]
    worker = RayWorker(1, None, None, node="here")
    assert "killed by a signal, or the function ended it" in deaths.end_of(worker, Exception(RAYS_WORDS)).text
    (tmp_path / "file").touch()
    deaths.files[1] = str(tmp_path / "file")
    assert "without a trace: it was killed (SIGKILL)" in deaths.end_of(worker, Exception(RAYS_WORDS)).text


def test_workers_that_die_without_any_result_end_the_call() -> None:
    tries = Tries(retries=0)
    lost = End("lost", "its node is lost.", "")
    for _ in range(16):
        tries.died(2, lost)
    with pytest.raises(LostError, match=r"17 workers were lost .* its node is lost"):
        tries.died(2, lost)


def test_a_task_and_its_outcomes_survive_their_messages() -> None:
    points = Points(np.arange(5.0), np.array([1, 2, 4]), np.array([1j, 2, 3]), np.array([0, 2, 2, 3]))
    task = EvaluationTask(3, "f", np.array([7, 8, 9]), Limits(0.5, 2, False), 0.1, points, with_base=True)
    got = unpacked_task(task.packed())
    assert (got.turn, got.function, got.limits, got.budget_s) == (3, "f", Limits(0.5, 2, False), 0.1)
    assert got.points is not None
    for number in range(3):
        np.testing.assert_array_equal(got.points.vector(number), points.vector(number))

    form, row = flat_value({"a": 1.0, "b": np.arange(3.0)})
    failures = {8: Failure("exception", "E: no fuel", "trace", 2, "host")}
    outcomes = Outcomes(np.array([7, 8]), np.stack([row, row * np.nan]), form, np.array([0.1, 0.2]), failures, "host")
    got_outcomes, raised = unpacked_outcomes(packed_outcomes(outcomes, raised=True))
    assert raised
    assert (got_outcomes.form, got_outcomes.failures, got_outcomes.host) == (form, failures, "host")
    np.testing.assert_array_equal(got_outcomes.values, outcomes.values)


def test_a_task_is_sent_ahead_unless_it_does_not_fit_into_the_socket() -> None:
    here, there = multiprocessing.Pipe()
    worker = RayWorker(1, None, None, connection=here, address="address")
    small = EvaluationTask(3, "f", np.arange(3), Limits(), 0.1)
    large = EvaluationTask(3, "f", np.arange(1_000_000), Limits(), 0.1)
    channel = Channel(None)
    assert channel.send(worker, small, None, 0.0)
    assert not channel.send(worker, large, None, 0.0)  # which would wait until the worker reads it
    assert worker.ahead is None
    assert channel.send(worker, small, None, 0.0)
    assert [unpacked_task(there.recv_bytes()).turn for _ in range(2)] == [3, 3]
    first, second = worker.call, worker.ahead
    assert first is not None
    worker.advance()
    assert worker.call is second
    worker.advance()
    assert worker.call is None


@pytest.mark.parametrize("message", [b"", b"\x02\x00\x00\x00{}", b"\x02\x00\x00\x00[]", b"\xff\xff\xff\xff"])
def test_a_damaged_message_is_refused(message: bytes) -> None:
    for unpack in (unpacked_task, unpacked_outcomes):
        with pytest.raises(ValueError, match=r"no message|not packed|Expecting"):
            unpack(message)


def record(code: str, tmp_path: Path) -> bytes:
    """What the file of a process tells that runs this code with a guard ``guard``."""
    file = tmp_path / "end"
    begin = (
        "import ctypes, os, subprocess, time\nfrom pathlib import Path\n"
        "from distnum.evaluation.ray_workers import ends\n"
        "from distnum.workers.ray_pool.reasons import record_crashes\nends.FALLBACK_S = 0.3\nos.setpgid(0, 0)\n"
        f"guard = ends.Guard(record_crashes(Path({str(file)!r})))\n"
    )
    subprocess.run([sys.executable, "-c", begin + code], check=False, timeout=60)
    return file.read_bytes()


def test_an_exit_of_the_function_is_recorded_and_others_are_not(tmp_path: Path) -> None:
    end = end_of(record("def simulate():\n    os._exit(3)\nwith guard:\n    simulate()", tmp_path))
    assert end is not None
    assert (end.kind, end.text) == ("crash", "ended its process: os._exit(3)")
    assert "in simulate" in end.trace
    assert "recorded_exit" not in end.trace
    assert end_of(record("os._exit(3)", tmp_path)) is None
    assert end_of(record("with guard:\n    os.fork() or os._exit(3)\n    os.wait()", tmp_path)) is None


linux = pytest.mark.skipif(sys.platform != "linux", reason="the C library has no on_exit")


@linux
@pytest.mark.parametrize("status", [0, 3, 70, 200])
def test_an_exit_from_c_code_is_recorded_with_its_status(tmp_path: Path, status: int) -> None:
    for call in (f"ctypes.CDLL(None).exit({status})", f"ctypes.PyDLL(None).exit({status})"):
        end = end_of(record(f"with guard:\n    pass\nwith guard:\n    {call}", tmp_path))
        assert end is not None
        assert (end.kind, end.text) == ("crash", f"ended its process with exit status {status}")
    thread = f"threading.Thread(target=ctypes.CDLL(None).exit, args=({status},)).start()"
    end = end_of(record(f"import threading\nwith guard:\n    {thread}\n    time.sleep(100)", tmp_path))
    assert end is not None


@linux
@pytest.mark.parametrize(
    "code",
    [
        "ctypes.CDLL(None).exit(3)",
        "with guard:\n    pass\nraise SystemExit(3)",
        "with guard:\n    os.fork() or ctypes.CDLL(None).exit(3)\n    os.wait()\n    ctypes.CDLL(None)._exit(4)",
        "with guard:\n    if not ctypes.CDLL(None).fork():\n        ctypes.CDLL(None).exit(3)\n    os.wait()",
        "with guard:\n    subprocess.run(['sh', '-c', 'exit 3'])",
    ],
    ids=["before", "after", "fork", "fork of C", "child"],
)
def test_exits_outside_evaluations_and_of_children_are_not_recorded(tmp_path: Path, code: str) -> None:
    assert record(code, tmp_path) == b""


def test_an_exit_that_crashes_on_its_way_is_an_exit() -> None:
    content = b"\x03Fatal Python error: Segmentation fault\n"
    assert end_of(content) == End("crash", "ended its process with exit status 3", "")


def test_a_function_that_kills_its_process_is_recorded(tmp_path: Path) -> None:
    end = end_of(record("def stop():\n    os.kill(os.getpid(), 9)\nwith guard:\n    stop()", tmp_path))
    assert end is not None
    assert (end.kind, end.text) == ("crash", "ended its process: os.kill(os.getpid(), SIGKILL)")
    assert "in stop" in end.trace
    assert record("with guard:\n    os.kill(os.getpid(), 0)\nos.kill(os.getpid(), 9)", tmp_path) == b""


def test_a_crash_names_the_signal(tmp_path: Path) -> None:
    end = end_of(record("with guard:\n    ctypes.string_at(0)", tmp_path))
    assert end is not None
    assert end.text == "crashed its process: Segmentation fault (SIGSEGV)"


def test_an_evaluation_that_takes_too_long_ends_with_its_number(tmp_path: Path) -> None:
    code = "with guard:\n    guard.number = 17\n    guard.limited(time.sleep, 0.1)(1000)"
    end = end_of(record(code, tmp_path))
    assert end is not None
    assert (end.kind, end.text, end.number) == ("timeout", "took longer than its time limit of 0.1 s", 17)


def test_a_function_that_holds_the_global_lock_is_ended_too(tmp_path: Path) -> None:
    code = "with guard:\n    guard.limited(ctypes.PyDLL(None).sleep, 0.1)(1000)"
    end = end_of(record(code, tmp_path))
    assert end is not None
    assert end.kind == "timeout"
    assert "global lock" in end.text


def test_short_evaluations_under_a_limit_are_not_ended(tmp_path: Path) -> None:
    code = "f = guard.limited(time.sleep, 0.2)\nwith guard:\n    for _ in range(60):\n        f(0.01)\nprint('done')"
    assert record(code, tmp_path) == b""
    assert not os.path.exists("core")
