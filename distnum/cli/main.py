"""The process of the command line: its streams, its exit code, and one line for every error.

Results go to the standard output, progress and remarks to the standard error stream. Exit codes:
0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO, cast

from distnum.cli.commands import COMMANDS
from distnum.cli.options import parsed
from distnum.cli.output import BAD_INPUT, FAILED, INTERRUPTED
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import print_remark, printable

__all__ = ["main", "run"]


def run() -> NoReturn:
    """Run the command line and end the process with the exit code of ``main``."""
    _prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # distnum reports in its own words what matters to the user
    logging.getLogger().addHandler(logging.NullHandler())  # the same for log records of libraries
    code = main()
    if code in (INTERRUPTED, FAILED):
        # At once: the cleanup of an interrupted library, or of one that has lost its servers, can crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Command and options; None takes those of this process.
    """
    remarks = logging.StreamHandler(sys.stderr)
    remarks.setLevel(logging.WARNING)
    remarks.setFormatter(_Formatter("distnum: %(levelname)s: %(message)s"))
    log = logging.getLogger("distnum")
    log.addHandler(remarks)
    try:
        options = parsed(sys.argv[1:] if arguments is None else arguments, COMMANDS)
        return options.command.run(options)
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except TrainingError as error:
        return _complain(str(error), FAILED)
    except MemoryError as error:
        return _complain(f"this machine has not enough memory: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except Exception as error:
        if os.environ.get("DISTNUM_DEBUG"):
            raise
        return _complain(
            f"unexpected {type(error).__name__}: {error} (please report it; DISTNUM_DEBUG=1 shows the traceback)",
            FAILED,
        )
    finally:
        log.removeHandler(remarks)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def _complain(message: str, code: int) -> int:
    print_remark(f"distnum: {' '.join(message.split())}")
    return code


class _Remarks:
    """The standard error stream, ignoring write errors: a full disk or a closed pipe must not end the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # RuntimeError: a signal arrived during another write to the stream.
        with suppress(OSError, RuntimeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, RuntimeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _prepare_streams() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The stream is closed. The next file opened would get its number, and the stream's text.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (stays open to the end)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", _Remarks(sys.stderr))
