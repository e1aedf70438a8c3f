"""The errors that users meet, and the exit code of each."""

from __future__ import annotations

from distnum.common.text import printable

__all__ = ["DeadlineError", "EvaluationError", "InputError", "LostError", "NotFiniteError", "TrainingError"]


class _ForTerminals(Exception):
    """An error whose message cannot act on a terminal, whatever names it repeats."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class InputError(_ForTerminals, ValueError):
    """A value, file or address given by the user cannot be used.

    The message names the value, the field, and what is allowed. The command line prints it as one line and exits with
    code 2.
    """


class TrainingError(_ForTerminals, RuntimeError):
    """Work that had started could not be finished, for example because its workers were lost.

    The command line prints the message as one line and exits with code 1.
    """


class NotFiniteError(TrainingError):
    """A loss or a partial derivative is infinite or not a number."""


class EvaluationError(TrainingError):
    """An evaluation of the user's function ended its process, or took longer than its time limit."""


class LostError(TrainingError):
    """The workers or the whole cluster are lost. A run that is kept can be continued where it ended."""


class DeadlineError(TrainingError):
    """The time that the user allows is over."""
