"""Why a worker failed: exceptions that can be sent to the driver, and the causes of a process's end."""

from __future__ import annotations

import contextlib
import faulthandler
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from distnum.common.errors import TrainingError
from distnum.common.text import first_line

__all__ = ["ENDED_AT_ONCE", "cause_of", "crash_file", "n_oom_kills", "reason_of", "record_crashes", "sendable_errors"]

# An exception whose pickle is longer is replaced by its beginning.
_MOST_BYTES = 1_000_000
_MOST_CHARACTERS = 300

# Ray's text for a process that ended without giving a reason, and the sentences that replace it.
_NO_REASON = re.compile(r"Worker unexpectedly exits with a connection error code 2\. End of file\.?")
ENDED_AT_ONCE = "its process ended at once: it was killed by a signal, or the function ended it (os._exit)."
_OUT_OF_MEMORY = "its process ended when the system was out of memory and killed a process; try fewer workers."
_FATAL = "Fatal Python error: "
_WRAPPER = "Worker exits unexpectedly. "


@contextlib.contextmanager
def sendable_errors() -> Iterator[None]:
    """Replace exceptions of a function that cannot be sent to the driver, or would end the worker."""
    try:
        yield
    except BaseException as error:
        sent = _sendable(error)
        if sent is error:
            raise
        raise sent from None


def _sendable(error: BaseException) -> Exception:
    """An exception of a function as it can be sent to the driver.

    It is the exception itself, unless that would end the worker or cannot be sent: one that asks a
    process to end, that cannot be pickled and unpickled, or that is large.
    """
    import ray.cloudpickle

    name = type(error).__qualname__
    if isinstance(error, SystemExit):
        return TrainingError(f"the function ended its process: sys.exit({error.code!r}).")
    if isinstance(error, Exception):
        try:
            pickled = ray.cloudpickle.dumps(error)
            if len(pickled) <= _MOST_BYTES and type(ray.cloudpickle.loads(pickled)) is type(error):
                return error
        except Exception as problem:  # an exception's own methods may raise anything
            name += f", which cannot be sent to the driver ({first_line(problem)[:100]})"
    try:
        message = first_line(error)[:_MOST_CHARACTERS]
    except Exception as problem:
        message = f"its message cannot be made ({type(problem).__qualname__})"
    return TrainingError(f"the function raised {name}: {message}")


def cause_of(error: Exception) -> BaseException:
    """The exception that a worker raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def crash_file(address: str) -> Path:
    """File for the reason of a crash of the worker with this socket."""
    return Path(f"{address}.crash")


def record_crashes(path: Path) -> TextIO | None:
    """Write the reason into a file if this process crashes, as by a segmentation fault; None if that is impossible."""
    with contextlib.suppress(OSError, RuntimeError):
        file = path.open("w")  # never closed: it is written when the process crashes
        faulthandler.enable(file, all_threads=False)
        return file
    return None


def n_oom_kills() -> int:
    """Number of processes that the system has killed since its start as it was out of memory; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def reason_of(error: BaseException, worker: Any = None, here: str = "") -> str:
    """Why a worker died, as a sentence.

    Args:
        error: The error that its death caused.
        worker: Its ``RayWorker``.
        here: Node of this machine.
    """
    text = " ".join(str(error).split())
    reason = f"{first_line(error)[:_MOST_CHARACTERS]}."
    for mark in ("Worker exit detail: ", "The actor is dead because "):
        if mark in text:
            reason = text.split(mark, 1)[1].split(" Some common causes", 1)[0]
            reason = reason.removeprefix(_WRAPPER)[:_MOST_CHARACTERS]
            break
    if worker is None or not (isinstance(error, ConnectionError) or _NO_REASON.search(reason)):
        return reason
    if worker.address is not None:
        with contextlib.suppress(OSError):
            crash = crash_file(worker.address).read_text(errors="replace").partition("\n")[0]
            if crash.startswith(_FATAL):
                return f"it crashed: {crash.removeprefix(_FATAL)}."
    if worker.node == here and n_oom_kills() > worker.n_oom_kills:
        return _OUT_OF_MEMORY
    return _NO_REASON.sub(ENDED_AT_ONCE, reason)
