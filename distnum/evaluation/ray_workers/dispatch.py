"""Gives the points of one call to Ray workers, and survives the deaths of workers.

A worker gets as many points as it evaluates in some hundredths of a second, and fewer at the end. It gets its next task
before it has finished one, as long as much is left. When nothing is left, points that are far overdue are copied to
idle workers; the first result counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np

from distnum.evaluation.ray_workers.allotment import Allotment
from distnum.evaluation.ray_workers.deaths import Deaths, failed_at
from distnum.evaluation.ray_workers.ends import End
from distnum.evaluation.ray_workers.functions import Functions
from distnum.evaluation.ray_workers.hands import Hands, Taking, points_in_hand
from distnum.evaluation.ray_workers.jobs import Job, Results
from distnum.evaluation.ray_workers.tries import Tries
from distnum.workers.ray_pool.channel import Call, RayWorker
from distnum.workers.ray_pool.reasons import cause_of
from distnum.workers.ray_pool.starting import LOOK_S, fatal_error
from distnum.workers.ray_pool.team import RayTeam

__all__ = ["Dispatch"]

# Seconds between looks for overdue tasks while a worker is idle.
_LOOK_IDLE_S = 0.02
# Without an idle worker for these seconds, those that still compute points of earlier calls are ended.
_ABANDONED_S = 1.0
# Seconds for Ray to return a reply that is there.
_REPLY_TIMEOUT_S = 60.0
# A worker limits its time by itself. It is ended from here these seconds later.
_LAST_RESORT_S = 10.0

R = TypeVar("R", bound=Results)


class Dispatch(Generic[R]):
    """One call.

    Args:
        team: The workers.
        functions: The functions that they hold.
        deaths: Finds out why workers died.
        job: What is asked for.
        turn: Number of the call.
    """

    def __init__(self, team: RayTeam, functions: Functions, deaths: Deaths, job: Job[R], turn: int) -> None:
        self._ray, self._roster, self._channel = team.ray, team.roster, team.roster.channel
        self._functions, self._deaths, self._job, self._turn = functions, deaths, job, turn
        self._tries = Tries(job.limits.retries)
        self._points = Allotment(job, functions.seconds.get(job.function))
        self._hands = Hands(team.roster, turn)
        self._begun: set[RayWorker] = set()  # workers that have had a task of this call
        self._sends_ahead = True
        self._in_touch: RayWorker | None = None  # the worker to or from which a message is under way
        self._finished: list[R] = []
        self._began = perf_counter()

    def run(self) -> Iterator[R]:
        """Yield the results of all points as they come.

        Raises:
            Exception: With ``limits.raises``, the function's own exception.
            EvaluationError: With ``limits.raises``, an evaluation ended its process or took too long.
            LostError: The workers, or the cluster, are lost.
        """
        self._ray.check()
        self._roster.refresh(0, _never)
        self._deaths.look()
        try:
            yield from self._run()
        finally:
            if self._in_touch is not None:  # interrupted: the next message would begin in the middle of this one
                self._channel.disconnect(self._in_touch)
        if self._points.pace.seconds is not None:
            self._functions.learn(self._job.function, self._points.pace.seconds)

    def _run(self) -> Iterator[R]:
        looked = perf_counter()
        while True:
            self._hand_out()
            yield from self._finished  # after the workers have something to do again
            self._finished.clear()
            busy, ours, late = self._hands.busy, self._hands.ours, False
            done = not self._points.n_left() and all(self._points.are_done(points_in_hand(worker)) for worker in ours)
            if done or perf_counter() > (self._job.limits.ends or np.inf):
                return
            if ours:
                for worker in self._channel.replied(busy, self._wait_s(busy)):
                    if worker in ours:
                        try:
                            self._receive(worker)
                        except Exception:
                            yield from self._finished
                            raise
                    else:
                        late = True
                self._end_silent_workers()
            elif not self._roster.idle:
                self._wait_for_a_worker()
            if late or perf_counter() > looked + LOOK_S:
                looked = perf_counter()
                self._roster.refresh(0, _never, turn=self._turn)
                self._deaths.look()

    def _hand_out(self) -> None:
        """Give every idle worker points, or the function, as long as there are points; then to busy ones, ahead."""
        n_workers, points = len(self._roster.working), self._points
        n_taking = self._hands.n_taking
        for worker in points.pace.fastest_first(self._roster.idle):
            n_left = points.n_left(n_workers)
            if not n_left:
                n_left = points.copy_an_overdue_task(self._hands.tasks)
            elif points.leave_to_others(worker, n_left, n_workers, self._hands.tasks):
                return
            if not n_left:
                return
            if self._functions.has(worker, self._job.function):
                self._give(worker, n_left)
            elif n_left > n_taking:
                self._channel.disconnect(worker)  # so that the worker takes calls of Ray
                worker.call = Call(self._functions.send(worker, self._job), Taking(self._turn), 0.0, perf_counter())
                n_taking += 1
        if self._sends_ahead:
            for worker in self._hands.without_next:
                n_left = points.n_left(n_workers)
                if points.pace.has_time_for_more(worker, len(points_in_hand(worker)), n_left, n_workers):
                    self._give(worker, n_left)

    def _give(self, worker: RayWorker, n_left: int) -> None:
        """Give a worker points."""
        numbers, budget_s = self._points.take(worker, n_left, len(self._roster.working))
        if not len(numbers):
            return
        task, argument = self._job.task(self._turn, numbers, budget_s, worker not in self._begun)
        self._begun.add(worker)
        self._in_touch = worker
        if not self._channel.send(worker, task, argument, 0.0):
            self._points.not_begun(numbers)
            self._sends_ahead = False
        self._in_touch = None

    def _wait_s(self, busy: list[RayWorker]) -> float:
        """Seconds until something has to be looked at, although no worker has replied."""
        return LOOK_S if self._points.pace.seconds is None or len(busy) == len(self._roster.working) else _LOOK_IDLE_S

    def _wait_for_a_worker(self) -> None:
        """Wait a moment for an idle worker; end those that compute points of earlier calls, if there is no other.

        Raises:
            LostError: There have been too few workers for too long.
        """
        roster = self._roster
        roster.wait_for_one(0, _never)
        if not roster.idle and perf_counter() > self._began + _ABANDONED_S:
            for worker in list(roster.working):
                self._end(worker, "it still computed points that nobody needs any more", quiet=True)

    def _receive(self, worker: RayWorker) -> None:
        """Receive a worker's reply, or the news of its death."""
        ray, call = self._ray, worker.call
        assert call is not None
        self._in_touch = worker
        try:
            reply = self._channel.receive(worker, _REPLY_TIMEOUT_S)
            results, raised = (None, False) if isinstance(call.task, Taking) else self._job.results(reply)
        except ray.exceptions.RayTaskError as error:
            self._in_touch = worker.call = worker.ahead = None
            raise fatal_error(ray, error) or cause_of(error) from error
        except (ray.exceptions.RayError, ConnectionError, ValueError) as error:  # the latter for a damaged message
            self._in_touch = None
            self._lose(worker, self._deaths.end_of(worker, error))
            return
        self._in_touch = None
        worker.advance()
        if results is None:
            self._functions.sent(worker, self._job.function)
            self._deaths.files[worker.number] = str(reply)
            return
        self._tries.succeeded()
        results = self._points.finished(worker, call.task.numbers, results)
        if len(results.numbers):
            self._finished.append(results)
        if raised:
            worker.call = worker.ahead = None  # the worker evaluates no further points of this call
            self._channel.disconnect(worker)  # so that it takes calls of Ray
            raise self._deaths.kept_exception(worker, results.failures, self._job.describe)

    def _end_silent_workers(self) -> None:
        """End workers that have not ended themselves although their time is over."""
        limits = self._job.limits
        if limits.timeout is None:
            return
        for worker, call in self._hands.evaluating:
            time_s = limits.timeout * max(limits.retries + 1, len(call.task.numbers)) + _LAST_RESORT_S
            if perf_counter() > call.sent + time_s:
                self._lose(worker, End("timeout", "took longer than its time limit", ""))

    def _end(self, worker: RayWorker, reason: str, quiet: bool) -> None:
        self._functions.forget(worker)
        self._points.pace.forget(worker)
        self._deaths.end(worker, reason, quiet)

    def _lose(self, worker: RayWorker, end: End) -> None:
        """Remove a worker that has died or hangs, and see to its points."""
        call, ahead = worker.call, worker.ahead
        assert call is not None
        if isinstance(call.task, Taking) and end.kind != "lost":
            end = End("lost", f"unpickling the function {end.text}", end.trace)
        self._end(worker, end.text, quiet=end.kind != "lost")
        if ahead is not None:
            self._points.not_begun(ahead.task.numbers)
        self._tries.died(len(self._roster.working), end)
        if isinstance(call.task, Taking):
            return
        culprit = self._points.lost(call.task.numbers, end.number)
        if culprit is None:
            return
        failure = self._tries.failure(culprit, end, worker.host)
        if failure is None:
            self._points.try_again(culprit)
        elif self._job.limits.raises:
            raise failed_at(failure, self._job.describe(culprit), worker)
        else:
            self._finished.append(self._job.failed(culprit, failure))


def _never(call: Call) -> float:
    """No worker is given up because it is silent: an evaluation may take an hour."""
    return float("inf")
