"""What is said of a program that has failed."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

from distnum.common.errors import TrainingError
from distnum.evaluation.programs.kept import FailedFolders
from distnum.evaluation.programs.running import STDERR, STDOUT

__all__ = ["Failing", "ProgramError", "ended", "not_started"]

# Of the output, at most this much is in the message.
_TAIL_BYTES, _TAIL_LINES, _LINE = 2000, 10, 200


class ProgramError(TrainingError):
    """A program has failed, or has not written what is to be read.

    Attributes:
        command: The command with its numbers.
        exit_code: Its exit code, negative for a signal; None if it was not started, or its time was over.
        timed_out: Whether its time was over.
        folder: Its folder; None if that is not kept.
    """

    command: str | Sequence[str] = ()
    exit_code: int | None = None
    timed_out: bool = False
    folder: Path | None = None


class Failing:
    """Makes the exceptions of one call of a program.

    Args:
        command: The command with its numbers.
        folder: Its folder.
        not_given: Arguments that name files of the current directory, which are not in its folder.
        failed: Keeps the folder if asked.
    """

    def __init__(
        self,
        command: str | list[str],
        folder: Path,
        not_given: Sequence[str],
        failed: FailedFolders,
    ) -> None:
        self._command = command
        self._folder = folder
        self._not_given = not_given
        self._failed = failed

    def __call__(self, reason: str, exit_code: int | None = None, timed_out: bool = False) -> ProgramError:
        shown = self._command if isinstance(self._command, str) else shlex.join(self._command)
        output = {name: _tail(self._folder / name) for name in (STDERR, STDOUT)}
        last = next((f"; its last line: {lines[-1].strip()[:_LINE]!r}" for lines in output.values() if lines), "")
        written = "\n".join(line for lines in output.values() for line in lines)
        for name in [name for name in self._not_given if name in written][:1]:
            last += f"; {name!r} is not in its folder: give the full path, or give the file in copy"
        kept, sentence = self._failed.failed(self._folder)
        text = f"The program {_shortened(shown)!r} {reason}{last}. {sentence}".rstrip()
        for name, lines in output.items():
            if len(lines) > 1:
                text += f"\nEnd of {name}:\n" + "\n".join(f"    {line}" for line in lines)
        error = ProgramError(text)
        error.command, error.exit_code, error.timed_out = self._command, exit_code, timed_out
        error.folder = self._folder if kept else None
        return error


def _shortened(command: str) -> str:
    return command if len(command) <= 200 else command[:150] + " ... " + command[-40:]


def ended(code: int) -> str:
    """Return how a program has ended, in words."""
    if code > 0:
        return f"ended with exit code {code}"
    name = str(-code)
    with contextlib.suppress(ValueError):
        name = f"{-code} ({signal.Signals(-code).name})"
    return f"was ended by signal {name}"


def not_started(error: OSError, folder: Path) -> str:
    """Return why a program could not be started, in words."""
    path = Path(folder, error.filename or "")
    reason = error.strerror or str(error)
    if error.errno == errno.EACCES and path.is_dir():
        reason = "it is a folder"
    elif error.errno == errno.EACCES and path.is_file() and not os.access(path, os.X_OK):
        reason = "it is not executable; chmod +x makes it so"
    elif error.errno == errno.ENOENT and path.is_file():
        reason = "the interpreter that its first line names, or a library, is not there"
    elif error.errno == errno.ENOEXEC:
        reason = "it is no program of this system; a script must begin with '#!' and its interpreter"
    return f"{str(error.filename or folder)!r}: {reason}"


def _tail(path: Path) -> list[str]:
    """The last lines of a file; none if it is not there."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace").rstrip().splitlines()[-_TAIL_LINES:]
    return []
