"""The errors that users meet, and the exit code of each."""

from __future__ import annotations

__all__ = ["InputError", "NotFiniteError", "TrainingError"]


class InputError(ValueError):
    """A value, file or address given by the user cannot be used.

    The message names the value, the field, and what is allowed. The command line prints it as one line and exits with
    code 2.
    """


class TrainingError(RuntimeError):
    """Work that had started could not be finished, for example because its workers were lost.

    The command line prints the message as one line and exits with code 1.
    """


class NotFiniteError(TrainingError):
    """A loss or a partial derivative is infinite or not a number."""
