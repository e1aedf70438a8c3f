"""The user's own code on the command line: workers that can import it, and its exceptions."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnum.cli.derivative_report import WIDTH, wrapped
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import first_line, printable

if TYPE_CHECKING:
    from distnum.evaluation.outcomes import Backend
    from distnum.studies.functions import ImportPath

__all__ = ["WHERE", "describe_exception", "is_of_the_function", "started_workers"]

_NOTE = "This happened "
_MOST_LINES = 12


WHERE = ("workers", "address", "store")
"""Options of ``differentiate`` that decide who evaluates, and where evaluations are kept."""


@contextlib.contextmanager
def started_workers(options: Mapping[str, Any], import_path: ImportPath) -> Iterator[Backend]:
    """Yield who evaluates: this process, or Ray workers that can import what lies in a folder.

    Args:
        options: The options ``WHERE`` count.
        import_path: The folder.

    Raises:
        InputError: An option cannot be used.
    """
    from distnum.evaluation.backends import backend_of
    from distnum.studies.study import workers_of

    workers: Any = workers_of(options)
    address, store = options.get("address"), options.get("store")
    with contextlib.ExitStack() as stack:
        if workers != 0:
            from distnum.evaluation.evaluator import Evaluator

            workers, address = stack.enter_context(Evaluator(workers, address, setup=import_path)), None
        yield stack.enter_context(backend_of(workers, address, store))


def is_of_the_function(error: BaseException) -> bool:
    """Return whether the user's function has raised an exception, rather than distnum."""
    has_trace = hasattr(error.__cause__, "text") and not isinstance(error, TrainingError)
    return (bool(_place(error)) or has_trace) and not isinstance(error, InputError)


def _place(error: BaseException) -> str:
    """Where the function has raised an exception, such as ``"where x[3] is moved by +6e-06"``; "" if it has not."""
    texts = [*getattr(error, "__notes__", ()), str(error.__cause__ or "")]  # Python 3.10 has no notes
    return next((text.strip()[len(_NOTE) :].rstrip(".") for text in texts if text.strip().startswith(_NOTE)), "")


def describe_exception(error: BaseException) -> str:
    """Return lines about an exception of the user's function: what, at which point, and the last calls before it."""
    name = f"{type(error).__name__}: "
    lines = wrapped(f"the function failed {_place(error)}".strip() + ":", WIDTH - len("distnum: "))
    if isinstance(error, TrainingError):  # of a program: the end of its output
        return "\n".join([*lines, *(one for line in str(error).splitlines() for one in _indented(line))])
    lines += _indented(f"{name}{first_line(error)}.")
    cause = getattr(error.__cause__, "text", "")
    trace = [] if not cause or cause.strip().startswith(_NOTE) else _last_calls_of_text(cause)
    return "\n".join([*lines, *(trace or _last_calls(error))])


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in wrapped(printable(text), WIDTH - 2)]


def _last_calls(error: BaseException) -> list[str]:
    package = str(Path(__file__).resolve().parents[1])
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(package + os.sep)]
    return _lines(traceback.format_list(frames))


def _last_calls_of_text(trace: str) -> list[str]:
    """The calls in a traceback that a worker has sent, without those of distnum."""
    frames: list[str] = []
    for line in trace.splitlines():
        if line.startswith('  File "'):
            frames.append(line)
        elif frames and line.startswith("    "):
            frames[-1] += f"\n{line}"
    ours = f"{os.sep}distnum{os.sep}"
    return _lines([frame for frame in frames if ours not in frame.splitlines()[0]])


def _lines(frames: list[str]) -> list[str]:
    lines = [line for frame in frames for line in frame.rstrip().splitlines() if set(line) - set(" ^~")]
    return [printable(line) for line in lines[-_MOST_LINES:]]
