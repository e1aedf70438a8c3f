"""Exceptions that workers send to the driver, and the causes of their ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distnum.common.errors import TrainingError
from distnum.workers.ray_pool.channel import RayWorker
from distnum.workers.ray_pool.reasons import crash_file, n_oom_kills, reason_of, sendable_errors


class NeedsTwoArguments(Exception):
    """Cannot be unpickled, as many exceptions with arguments of their own."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right} differ")


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("no fuel")
        self.lock = threading.Lock()


class HasNoMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), r"the function ended its process: sys.exit\(3\)"),
        (KeyboardInterrupt(), "the function raised KeyboardInterrupt"),
        (GeneratorExit(), "the function raised GeneratorExit"),
        (NeedsTwoArguments(1, 2), "raised NeedsTwoArguments, which cannot be sent to the driver .*: 1 and 2 differ"),
        (HoldsALock(), "raised HoldsALock, which cannot be sent to the driver .*lock.*: no fuel"),
        (ValueError("x" * 5_000_000), "the function raised ValueError: x{300}$"),
        (type("Odd", (HasNoMessage, HoldsALock), {})(), "raised Odd.*its message cannot be made"),
    ],
)
def test_an_error_that_cannot_be_sent_is_named(error: BaseException, message: str) -> None:
    with pytest.raises(TrainingError, match=message), sendable_errors():
        raise error


def test_other_errors_are_sent_unchanged() -> None:
    error = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError) as raised, sendable_errors():
        raise error
    assert raised.value is error


def test_a_crash_is_named(tmp_path: Path) -> None:
    address = str(tmp_path / "worker")
    code = (
        "import os, signal\nfrom distnum.workers.ray_pool.reasons import crash_file, record_crashes\n"
        f"record_crashes(crash_file({address!r}))\nos.kill(os.getpid(), signal.SIGSEGV)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    worker = RayWorker(1, None, None, address=address)
    assert reason_of(ConnectionError("broken"), worker) == "it crashed: Segmentation fault."
    crash_file(address).unlink()
    assert reason_of(ConnectionError("its connection is broken"), worker) == "its connection is broken."


RAYS_WORDS = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker process "
    "has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error "
    "code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory "
    "usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV."
)


def test_lack_of_memory_is_named_only_where_it_was() -> None:
    worker = RayWorker(1, None, None, node="node")
    killed = "its process ended at once: it was killed by a signal, or the function ended it (os._exit)."
    assert reason_of(Exception(RAYS_WORDS), worker, here="node") == killed
    worker.n_oom_kills = n_oom_kills() - 1
    assert "out of memory" in reason_of(Exception(RAYS_WORDS), worker, here="node")
    assert reason_of(Exception(RAYS_WORDS), worker, here="elsewhere") == killed
