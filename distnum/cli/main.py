"""The command line: its streams, and what ends it.

Results go to the standard output, progress and remarks to the error stream. Exit codes:
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
from distnum.cli.output import BAD_INPUT, FAILED, INTERRUPTED, ReaderGone
from distnum.common.errors import InputError, TrainingError

__all__ = ["main", "run"]


def run() -> NoReturn:
    """The command itself: ends the process with ``main``'s code."""
    _prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what matters to the user is said in a line of our own
    logging.getLogger().addHandler(logging.NullHandler())  # the same for what libraries log
    code = main()
    if code == INTERRUPTED:
        # At once: what an interrupted library would still do at the end of the process can crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    remarks = logging.StreamHandler(sys.stderr)
    remarks.setLevel(logging.WARNING)
    remarks.setFormatter(logging.Formatter("distnum: %(levelname)s: %(message)s"))
    log = logging.getLogger("distnum")
    log.addHandler(remarks)
    try:
        options = parsed(sys.argv[1:] if arguments is None else arguments)
        return COMMANDS[options.command](options)
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except TrainingError as error:
        return _complain(str(error), FAILED)
    except MemoryError as error:
        return _complain(f"this machine has not enough memory: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except ReaderGone:
        return FAILED  # there is nobody to tell
    except Exception as error:
        if os.environ.get("DISTNUM_DEBUG"):
            raise
        return _complain(
            f"unexpected {type(error).__name__}: {error} (set DISTNUM_DEBUG=1 to see where; please report it)", FAILED
        )
    finally:
        log.removeHandler(remarks)


def _complain(message: str, code: int) -> int:
    print(f"distnum: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


class _Remarks:
    """The error stream, for which no work is given up: its disk may be full, its reader gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # RuntimeError: a signal came while the stream was being written to.
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
            # Closed: the next file opened would get its number, and what is meant for the stream.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (stays open to the end)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", _Remarks(sys.stderr))
