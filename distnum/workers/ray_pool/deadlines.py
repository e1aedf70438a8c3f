"""How long replies should take, when work is copied to other workers, and when a worker is given up."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from distnum.workers.pool import Gathered
from distnum.workers.ray_pool.channel import Call

__all__ = ["COPY_FACTOR", "COPY_S", "GIVE_UP_S", "Deadlines"]

# A reply is overdue, and its work is copied to idle workers, after this factor times the expected
# time plus these seconds. Its worker is given up after the second pair.
COPY_FACTOR, COPY_S = 2.0, 0.25
_GIVE_UP_FACTOR, GIVE_UP_S = 10.0, 5.0
# The same while no time is expected yet.
_UNKNOWN_GIVE_UP_S = 600.0
# For a function of the user's, which may take any time: years.
_NEVER_S = 1e8
# Number of turns whose times are remembered.
_N_TIMES = 8


class Deadlines:
    """Deadlines of replies, from the times of earlier turns.

    Args:
        deadline_s: Seconds after which a worker is given up; None derives them from earlier turns.
        any_time: Whether the work may take any time, as a function of the user's: without ``deadline_s`` no worker is
            then given up, however long it computes. Its work is still copied to idle workers when it is overdue.
    """

    def __init__(self, deadline_s: float | None, any_time: bool = False) -> None:
        self._deadline_s = _NEVER_S if deadline_s is None and any_time else deadline_s
        self._times: deque[float] = deque(maxlen=_N_TIMES)

    def learn(self, gathered: Gathered, costs: NDArray[np.float64]) -> None:
        """Remember the seconds that the slowest worker of a turn would have taken for all tiles.

        Args:
            gathered: Answers of the turn.
            costs: Planned costs of its tiles, as fractions of their sum.
        """
        slowest_s = 0.0
        for worker, shard, reply in gathered.replies:
            share = float(costs[shard].sum())
            if share > 0:
                slowest_s = max(slowest_s, reply.compute_s * worker.speed / share)
        if slowest_s > 0:
            self._times.append(slowest_s)

    @property
    def turn_s(self) -> float | None:
        """Seconds that one worker takes for all tiles, in the slowest of the remembered turns; None if unknown."""
        return max(self._times) if self._times else None

    def patience(self, call: Call) -> float:
        """Seconds after which a reply is overdue."""
        expected, deadline = self._expected(call), self.deadline(call)
        return deadline if expected is None else min(COPY_FACTOR * expected + COPY_S, deadline)

    def deadline(self, call: Call) -> float:
        """Seconds after which a worker that has not replied is given up."""
        if self._deadline_s is not None:
            return self._deadline_s
        expected = self._expected(call)
        return _UNKNOWN_GIVE_UP_S if expected is None else _GIVE_UP_FACTOR * expected + GIVE_UP_S

    def _expected(self, call: Call) -> float | None:
        return None if self.turn_s is None else self.turn_s * call.load
