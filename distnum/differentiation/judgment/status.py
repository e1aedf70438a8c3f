"""What is known about an entry of a derivative."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["SETTLED", "Status"]


class Status(IntEnum):
    """How far an entry of a derivative can be trusted.

    The numbers are those in files; they do not change.
    """

    OK = 0
    """The change of the function is far above its noise, and smooth at the size of the step."""
    ONE_SIDED = 1
    """As ``OK``, but the function has values on one side only: the derivative is that of this side."""
    NOISE = 2
    """No step was found at which the change is above the noise of the function; the error says how uncertain it is."""
    KINK = 3
    """The slopes on the two sides differ at all distances that were tried; both are kept."""
    JUMP = 4
    """The function changes by the same amount however small the step is."""
    UNCHANGED = 5
    """Moving the coordinate changes no bit of the function's value, near ``x`` at least: the derivative is zero."""
    FAILED = 6
    """The function failed, or is not finite, on both sides."""
    TIMEOUT = 7
    """As ``FAILED``, because evaluations took longer than the time limit."""
    MISSING = 8
    """Not evaluated: the deadline passed, or the call was interrupted."""
    STEP = 9
    """The step that was given does not fit: better ones give another derivative. That of the given step is kept."""
    PATTERN = 10
    """The output depends on coordinates outside the pattern that was given; what these change may be in the entry."""


SETTLED = (Status.OK, Status.ONE_SIDED, Status.UNCHANGED, Status.MISSING)
"""Statuses of entries that are no fault. But a function that no coordinate changes is one."""
