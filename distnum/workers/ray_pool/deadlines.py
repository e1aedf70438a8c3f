"""How long answers should take, and when a worker is given up."""

from __future__ import annotations

from collections import deque

from distnum.workers.ray_pool.channel import Call

__all__ = ["GIVE_UP_S", "Timing"]


# An answer is overdue, and copies of the work are handed out, after so many times what it
# should take, and so many seconds; and the worker is given up after so many.
_COPY_FACTOR, _COPY_S = 2.0, 0.25
_GIVE_UP_FACTOR, GIVE_UP_S = 10.0, 5.0

# Where it is not known what it should take.
_UNKNOWN_GIVE_UP_S = 600.0

# What gradients have taken is remembered for so many steps.
_N_TIMES = 8


class Timing:
    """How long answers should take, from how long they have taken.

    Args:
        deadline_s: after which a worker is given up; None for one that follows from that.
    """

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._times: deque[float] = deque(maxlen=_N_TIMES)

    def note(self, seconds: float) -> None:
        """A whole gradient would have taken so long on the slowest worker of a step; 0 if nobody knows."""
        if seconds > 0:
            self._times.append(seconds)

    @property
    def gradient_s(self) -> float | None:
        """Seconds of a whole gradient on one worker, at the worst of the last steps; None if not known."""
        return max(self._times) if self._times else None

    def patience(self, call: Call) -> float:
        """Seconds after which others are given the same, if they have nothing else to do."""
        expected, deadline = self._expected(call), self.deadline(call)
        return deadline if expected is None else min(_COPY_FACTOR * expected + _COPY_S, deadline)

    def deadline(self, call: Call) -> float:
        """Seconds after which the worker is given up that has not answered."""
        if self._deadline_s is not None:
            return self._deadline_s
        expected = self._expected(call)
        return _UNKNOWN_GIVE_UP_S if expected is None else _GIVE_UP_FACTOR * expected + GIVE_UP_S

    def _expected(self, call: Call) -> float | None:
        return None if self.gradient_s is None else self.gradient_s * call.load
