"""Training in a program that does other things too: threads, forks, several trainings at once, Ray of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

BEGIN = """
import os, sys, threading
import numpy as np
import distnum

def loss(w, batch):
    return float(np.sum((w - 3) ** 2))

def trained(workers=2, **options):
    return distnum.train(loss, np.zeros(4), steps=20, workers=workers, **options).params_sha256

def error_of(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
        yield Path(name)


def output(code: str, temporary: Path) -> list[str]:
    """What a program prints, which must end well within two minutes and leave no file."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(temporary.glob("distnum-*"))
    return done.stdout.splitlines()


PROGRAM = """
import ray
import subprocess
alone = trained(workers=0)

# Trainings at once.
first, second = (distnum.steps(loss, np.zeros(4), steps=20, workers=2) for _ in range(2))
print(next(first).step, next(second).step)
mine = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
results = []
threads = [threading.Thread(target=lambda n=n: results.append(trained(n))) for n in (2, 3, 0)]
for thread in threads:
    thread.start()
print(next(first).step, next(second).step)
first.close()
print(next(second).step)
for thread in threads:
    thread.join()
print(results == [alone] * 3, results)

# A copy of the process.
pid = os.fork()
if pid == 0:
    print(trained(workers=0) == alone, error_of(trained), flush=True)
    sys.exit(3)  # with the interpreter's usual end
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), next(second).step, trained() == alone)
print(max(step.step for step in second), ray.is_initialized())
mine.communicate(b"\\n")
print(mine.returncode)

# Another session, which a generator that is left unfinished keeps open.
generator = distnum.steps(loss, np.zeros(4), steps=10_000, workers=2)
print(next(generator).step, trained() == alone)
"""


class TestOneProgram:
    """Different things that one program does: each needs Ray, whose start takes long."""

    @pytest.fixture(scope="class")
    @staticmethod
    def lines() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
            return output(PROGRAM, Path(name))

    def test_trainings_at_once_share_a_session_and_give_the_same_bits(self, lines: list[str]) -> None:
        assert lines[0:3] == ["1 1", "2 2", "3"]
        assert lines[3].startswith("True"), lines[3]
        assert lines[6] == "20 False"

    def test_a_copy_of_the_process_is_told_why_and_does_no_harm(self, lines: list[str]) -> None:
        told = "True InputError: workers cannot be used in this process: it is a copy (fork) of one"
        assert lines[4].startswith(told), lines[4]
        assert lines[5:7] == ["3 4 True", "20 False"]

    def test_processes_of_the_user_outlive_the_ray_session(self, lines: list[str]) -> None:
        assert lines[7] == "0"

    def test_a_generator_left_unfinished_at_exit_leaves_nothing(self, lines: list[str]) -> None:
        assert lines[8] == "1 True"  # and the program has ended


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_can_train(method: str, temporary: Path, tmp_path: Path) -> None:
    code = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    alone = trained(workers=0)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(sys.argv[1])) as executor:
        print(executor.submit(trained).result() == alone)
    if sys.argv[1] == "fork":
        with multiprocessing.get_context("fork").Pool(1) as pool:  # of daemonic processes
            print(pool.apply(trained) == alone)
"""
    (tmp_path / "program.py").write_text(BEGIN + code)
    command = [sys.executable, str(tmp_path / "program.py"), method]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True\nTrue\n" if method == "fork" else "True\n")


@pytest.mark.slow
def test_a_network_trains_in_a_copy_of_a_process_that_has_trained_one(temporary: Path) -> None:
    code = """
def network(workers):
    return distnum.train(hidden=16, steps=3, workers=workers, threads_per_worker=2).params_sha256
alone = network(0)
pid = os.fork()
if pid == 0:
    print(network(0) == alone, network(1) == alone, flush=True)
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert output(code, temporary) == ["True True", "0"]


@pytest.mark.slow
def test_the_program_may_shut_down_and_begin_ray_itself(temporary: Path) -> None:
    lines = output(
        """
import ray
alone = trained(workers=0)
generator = distnum.steps(loss, np.zeros(4), steps=10_000, workers=2)
next(generator)
ray.shutdown()
print(error_of(next, generator))
print(trained() == alone)
ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
print(trained() == alone, ray.get(ray.put(5)))
print(error_of(trained, address="127.0.0.1:1"))
ray.shutdown()
print(trained() == alone)
""",
        temporary,
    )
    assert lines[0].startswith("TrainingError: Ray was shut down by the program (ray.shutdown)"), lines[0]
    assert lines[1:3] == ["True", "True 5"]
    assert lines[3].startswith("InputError: address is '127.0.0.1:1', where no Ray cluster can be reached")
    assert lines[4] == "True"


@pytest.mark.slow
def test_training_where_an_event_loop_runs_and_a_generator_that_another_thread_closes(temporary: Path) -> None:
    code = """
import asyncio
from threadpoolctl import threadpool_info
alone = trained(workers=0)
before = threadpool_info()
async def main():
    box = [distnum.steps(loss, np.zeros(4), steps=10_000, workers=2)]  # begins the session
    next(box[0])
    print(trained() == alone, await asyncio.to_thread(trained, progress=False) == alone)
    return box
box = asyncio.run(main())
thread = threading.Thread(target=box.clear)
thread.start()
thread.join()
print(trained() == alone, threadpool_info() == before)
"""
    assert output(code, temporary) == ["True True", "True True"]
