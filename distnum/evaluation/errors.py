"""Exceptions of a user's function, as they reach the user: with the place where they were raised."""

from __future__ import annotations

from distnum.common.errors import TrainingError

__all__ = ["raised_at", "traced"]


class _RaisedAt(Exception):
    """Says where an exception was raised; shown in front of it, as its cause."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def raised_at(error: BaseException, place: str, trace: str = "") -> BaseException:
    """The exception with a note of the place where the function raised it.

    Args:
        error: The function's exception.
        place: Phrase such as ``"where x[3] is moved by +6e-06"``, with the worker and the machine.
        trace: Traceback of the worker; "" for an exception of this process, which has its own.
    """
    if isinstance(error, StopIteration):  # it would end a generator on its way
        error = TrainingError(f"the function raised StopIteration {error}".rstrip()).with_traceback(error.__traceback__)
    note = f"This happened {place}."
    if hasattr(error, "add_note"):
        error.add_note(note)
    return traced(error, trace or ("" if hasattr(error, "add_note") else note))


def traced(error: BaseException, trace: str) -> BaseException:
    """The exception with a traceback, or another text, in front of it; unchanged without a text."""
    if trace:
        cause = _RaisedAt(f"\n{trace.strip()}")
        cause.__cause__ = error.__cause__
        error.__cause__ = cause
    return error
