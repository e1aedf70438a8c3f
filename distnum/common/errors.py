"""The errors that a user can meet, and the exit code each one ends with."""

from __future__ import annotations

__all__ = ["InputError", "NotFiniteError", "TrainingError"]


class InputError(ValueError):
    """Something given by the user cannot be used: a value, a file, an address.

    The message names the value, the field, and what is allowed. The command line
    prints it as one line and exits with code 2.
    """


class TrainingError(RuntimeError):
    """Work that began could not be finished: a loss that is not finite, lost workers.

    The command line prints the message as one line and exits with code 1.
    """


class NotFiniteError(TrainingError):
    """A loss or a partial derivative is infinite or not a number."""
