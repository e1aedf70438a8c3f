"""The workers with a task of one turn, and how long they are waited for."""

from __future__ import annotations

from time import perf_counter

from distnum.workers.ray_pool.channel import Call, RayWorker
from distnum.workers.ray_pool.deadlines import GIVE_UP_S, Deadlines
from distnum.workers.ray_pool.roster import Roster

__all__ = ["Pending"]

_LONGEST_WAIT_S = 1.0


class Pending:
    """Waits for the replies of one turn.

    Args:
        roster: The workers.
        deadlines: How long replies should take.
        turn: Number of the turn.
    """

    def __init__(self, roster: Roster, deadlines: Deadlines, turn: int) -> None:
        self._roster = roster
        self._deadlines = deadlines
        self._turn = turn

    @property
    def workers(self) -> list[RayWorker]:
        """Workers with a task of this turn."""
        return [w for w in self._roster.working if w.call is not None and w.call.task.turn == self._turn]

    def is_overdue(self, call: Call) -> bool:
        """Whether a reply has taken longer than it should."""
        return perf_counter() > call.sent + self._deadlines.patience(call)

    def is_blocked(self, worker: RayWorker) -> bool:
        """Whether a worker will not begin its remaining tiles soon."""
        return worker.call is None or self.is_overdue(worker.call)

    def longest_patience(self) -> float:
        """Seconds until the last of these replies is overdue, from its sending."""
        return max(self._deadlines.patience(worker.call) for worker in self.workers if worker.call is not None)

    def replied(self) -> list[RayWorker]:
        """Workers that have replied; an empty list when it is time to look for overdue ones."""
        now, workers = perf_counter(), self.workers
        due_s = _LONGEST_WAIT_S
        for worker in workers:
            call = worker.call
            assert call is not None
            until = self._deadlines.deadline(call) if call.copied else self._deadlines.patience(call)
            due_s = min(due_s, max(0.01, call.sent + until - now))
        replied = self._roster.channel.replied(workers, due_s)
        self.forgive_a_pause(now, due_s)
        return replied

    def forgive_a_pause(self, began: float, at_most_s: float) -> None:
        """Extend all deadlines if this process itself was stopped while it waited."""
        excess_s = perf_counter() - began - at_most_s
        if excess_s > _LONGEST_WAIT_S:
            for worker in self._roster.working:
                if worker.call is not None:
                    worker.call.sent += excess_s

    def wait_for_all(self) -> None:
        """Wait for all workers, at most a few seconds, before a step fails, so that they are idle for the next one."""
        workers = self.workers
        if not workers:
            return
        ends = perf_counter() + min(self.longest_patience(), GIVE_UP_S)
        while workers and (replied := self._roster.channel.replied(workers, max(0.0, ends - perf_counter()))):
            workers = [worker for worker in workers if worker not in replied]
