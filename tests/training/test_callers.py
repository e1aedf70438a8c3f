"""What a loss function or a callback does to its process changes neither the result nor where files go."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import logging.handlers
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest

import distnum
from distnum import TrainingError
from distnum.common.events import Event, log_event
from distnum.storage.run_folder import RunFolder
from distnum.training.kept_process import process_kept

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _closed() -> TextIO:
    stream = open(os.devnull, "w")  # noqa: SIM115
    stream.close()
    return stream


def _set_streams(make: Callable[[], Any]) -> None:
    sys.stdout, sys.stderr = make(), make()


def _change_folder() -> None:
    os.chdir(tempfile.gettempdir())


def _remove_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def _change_environment() -> None:
    os.environ |= {"RAY_ADDRESS": "127.0.0.1:1", "TMPDIR": "/nonexistent", "RAY_TMPDIR": "/nonexistent"}
    os.environ |= {"OMP_NUM_THREADS": "7", "NUMBA_NUM_THREADS": "5", "NUMBA_DISABLE_JIT": "1", "HOME": "/nonexistent"}


def _seed() -> None:
    np.random.seed(0)
    random.seed(0)


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _close_descriptors() -> None:
    for number in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(number)


def _print() -> None:
    print("x" * 100_000)


def _start_threads() -> None:
    threading.Thread(target=threading.Event().wait, args=(0.5,), daemon=True).start()


def _raise_for_floats() -> None:
    np.seterr(all="raise")


DEEDS: dict[str, Callable[[], object]] = {
    "changes the folder": _change_folder,
    "removes the folder": _remove_folder,
    "changes the environment": _change_environment,
    "clears the environment": os.environ.clear,
    "seeds": _seed,
    "ignores signals": _ignore_signals,
    "has no streams": lambda: _set_streams(lambda: None),
    "closes streams": lambda: _set_streams(_closed),
    "redirects streams": lambda: _set_streams(io.StringIO),
    "prints": _print,
    "starts threads": _start_threads,
    "raises for floats": _raise_for_floats,
}


@pytest.fixture(autouse=True)
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin in a new folder, and restore what the functions of these tests change."""
    monkeypatch.chdir(tmp_path)
    descriptors = [os.dup(number) for number in (0, 1, 2)]
    environment, streams = dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    errors = np.geterr()
    yield
    np.seterr(**errors)
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    sys.stdin, sys.stdout, sys.stderr = streams
    os.environ.clear()
    os.environ.update(environment)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)


def trained(where: str = "", deed: Callable[[], object] = lambda: None, **options: Any) -> distnum.TrainResult:
    """Train a small function, during which a loss function or a callback does something."""

    def loss(w: Any, batch: Any) -> float:
        if where == "loss":
            deed()
        return float(np.sum((w["a"] - 3) ** 2) + np.mean((batch @ w["b"]) ** 2))

    def callback(name: str) -> Callable[..., None]:
        return lambda *_: None if where != name else (deed(), None)[1]

    return distnum.train(
        loss,
        {"a": np.zeros(3), "b": np.ones(2)},
        data=np.arange(40.0).reshape(20, 2) / 40,
        on_prepared=callback("on_prepared"),
        on_start=callback("on_start"),
        on_step=callback("on_step"),
        progress=True,
        **{"steps": 6, "batch_size": 5, "workers": 0, "checkpoint_every": 2} | options,
    )


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
@pytest.mark.parametrize("where", ["loss", "on_prepared", "on_start", "on_step"])
def test_the_result_and_its_place_stay_the_same(tmp_path: Path, where: str, deed: Callable[[], object]) -> None:
    expected = trained()
    assert trained(where, deed, out="run").params_sha256 == expected.params_sha256
    assert sorted(os.listdir(tmp_path)) == ["run"]
    run = RunFolder.look(tmp_path / "run")
    assert run.result(6) is not None
    assert [row["step"] for row in run.rows.read()] == list(range(1, 7))
    assert run.checkpoints.latest() is not None


def test_what_is_printed_after_closing_the_streams_is_in_no_file_of_the_run(tmp_path: Path) -> None:
    def close_and_print() -> None:
        _close_descriptors()
        for number in (0, 1, 2):
            with contextlib.suppress(OSError):
                os.write(number, b"printed")

    trained("on_prepared", close_and_print, out="run", steps=20, checkpoint_every=1)
    assert len(RunFolder.look(tmp_path / "run").rows.read()) == 20
    assert not any(b"printed" in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_a_scaling_experiment_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def data(step: int) -> None:
        _change_folder()

    def measure(*_: Any) -> Any:
        raise TrainingError("enough")

    monkeypatch.setattr("distnum.scaling.experiment.measure_scaling", measure)
    with pytest.raises(TrainingError, match="enough"):
        distnum.scale(lambda w, batch: 0.0, np.zeros(3), data=data, workers=1, out="scaling")
    assert os.listdir(tmp_path) == ["scaling"]


def test_the_handlers_and_streams_of_the_caller_are_as_before(tmp_path: Path) -> None:
    def mine(number: int, frame: Any) -> None:
        raise AssertionError

    for number in SIGNALS:
        signal.signal(number, mine)
    streams = sys.stdout, sys.stderr
    trained(out="run")
    assert [signal.getsignal(number) for number in SIGNALS] == [mine, mine]
    assert (sys.stdout, sys.stderr) == streams


def test_an_interruption_by_a_handler_of_the_user_saves_the_run(tmp_path: Path) -> None:
    class Mine(BaseException):
        pass

    def end(number: int, frame: Any) -> None:
        raise Mine

    n_steps = iter(range(100))

    def replace_handlers() -> None:
        for number in SIGNALS:
            signal.signal(number, end)
        if next(n_steps) == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Mine):
        trained("on_step", replace_handlers, out="run")
    assert RunFolder.look(tmp_path / "run").checkpoints.at(4) is not None


@pytest.mark.parametrize("make", [lambda: None, _closed], ids=["none", "closed"])
def test_an_event_without_an_error_stream_is_passed_over(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "distnum"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    monkeypatch.setattr(sys, "stderr", make())
    log_event(Event("worker_lost", "lost", 3))
    reached = logging.handlers.BufferingHandler(10)
    monkeypatch.setattr(logging.getLogger("distnum"), "handlers", [reached])
    log_event(Event("worker_lost", "lost", 3))
    assert [record.getMessage() for record in reached.buffer] == ["step 3: lost"]


def test_a_bar_keeps_the_streams_that_a_callback_has_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        trained()
        assert sys.stdout is sys.stderr is terminal
        trained("on_step", DEEDS["redirects streams"])
        assert isinstance(sys.stdout, io.StringIO)
        assert isinstance(sys.stderr, io.StringIO)
        sys.stdout = sys.stderr = terminal
        trained("on_step", lambda: terminal.close())
    os.close(leader)


def test_a_function_that_is_tried_out_leaves_its_process_as_it_was() -> None:
    def state() -> tuple[Any, ...]:
        return os.getcwd(), dict(os.environ), sys.stdout, sys.stderr, [signal.getsignal(n) for n in SIGNALS]

    before = state()
    for name in ("removes the folder", "changes the environment", "closes streams", "ignores signals"):
        with process_kept():
            DEEDS[name]()
        assert state() == before


PROGRAM = """
import json, os, signal, sys, tempfile
import numpy as np
import distnum

answers = os.fdopen(os.dup(1), "w")

def misbehave():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    os.environ.clear()
    os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
    sys.stdout, sys.stderr = (open(os.devnull, "w") for _ in range(2))
    sys.stdout.close(), sys.stderr.close()

def loss(w, batch):
    misbehave()
    os.write(1, b"y" * 1_000_000)
    return float(np.sum((w - 3) ** 2))

def largest():
    sizes = [os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(sessions) for name in names
             if name.startswith("worker-")]
    return max(sizes, default=0)

def on_step(step, row):
    os.chdir("/")
    most.append(largest())
    misbehave()

most, sessions = [], os.environ["RAY_TMPDIR"]
sys.stderr.close()
options = {"steps": 6, "workers": 2, "progress": True, "out": "run"}
result = distnum.train(loss, np.zeros(6), on_step=on_step, **options)
print(json.dumps([result.params_sha256, max(most)]), file=answers)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_workers_and_their_logs_stand_a_misbehaving_function(tmp_path: Path) -> None:
    expected = distnum.train(lambda w, batch: float(np.sum((w - 3) ** 2)), np.zeros(6), steps=6, workers=0)
    with tempfile.TemporaryDirectory(prefix="dn", dir="/tmp", ignore_cleanup_errors=True) as sessions:
        environment = {**os.environ, "RAY_TMPDIR": sessions}
        environment.pop("RAY_ADDRESS", None)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True
        )
    sha256, most = json.loads(done.stdout.splitlines()[-1].decode(errors="replace").lstrip("y"))
    assert sha256 == expected.params_sha256
    assert (tmp_path / "run" / "result.json").exists()
    # Each of the two workers prints 36 MB or more.
    assert 0 < most < 15_000_000
