"""Gathers the answers of one turn from Ray actors, and survives the loss of workers.

Every worker gets its shard, in parts if it takes long. An idle worker takes, in this order: its
own remaining tiles, unfinished tiles of lost workers, tiles that other workers have not begun,
and copies of overdue tasks. A tile's answers have the same bits wherever it is computed, so the
first reply counts. Answers of different tiles are put side by side and never added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import LostError
from distnum.workers.planner import first_part
from distnum.workers.pool import Gathered, KeptSlices, Reply, Timings
from distnum.workers.ray_pool.backlog import Backlog
from distnum.workers.ray_pool.channel import Call, RayWorker
from distnum.workers.ray_pool.deadlines import Deadlines
from distnum.workers.ray_pool.messages import RayTask, unpacked_reply
from distnum.workers.ray_pool.pending import Pending
from distnum.workers.ray_pool.reasons import cause_of, reason_of
from distnum.workers.ray_pool.roster import Roster
from distnum.workers.ray_pool.shared_memory import SharedFiles
from distnum.workers.tiles import Shard, positions_of
from distnum.workers.work import Work

__all__ = ["Gathering", "Turn"]

# The same tiles may be lost with this many workers; after one more, the tiles are probably the cause.
_MOST_LOSSES = 3


@dataclass(frozen=True)
class Turn:
    """One call of ``RayPool.compute``.

    Attributes:
        number: Number of the call.
        step: Step whose batch is used.
        params: Parameters, shape ``(n_params,)``.
        n_threads: Threads of each worker.
        variant: Passed to ``batch_at`` after the step, if not None.
    """

    number: int
    step: int
    params: Array
    n_threads: int
    variant: Any = None


class Gathering:
    """The answers of one turn, on their way.

    Args:
        ray: The connected ``ray`` module.
        roster: The workers.
        deadlines: How long replies should take.
        work: What is computed.
        files: Shared memory for parameters, answers and blocks.
        costs: Costs of the tiles, as fractions of their sum.
        turn: What is asked for.
        kept: Keeps finished slices, or None.
    """

    def __init__(
        self,
        ray: Any,
        roster: Roster,
        deadlines: Deadlines,
        work: Work,
        files: SharedFiles,
        costs: NDArray[np.float64],
        turn: Turn,
        kept: KeptSlices | None,
    ) -> None:
        self._ray = ray
        self._roster = roster
        self._deadlines = deadlines
        self._channel = roster.channel
        self._pending = Pending(roster, deadlines, turn.number)
        self._turn = turn
        self._kept = kept
        self._costs = costs
        self._tiles, self._order = work.tiles, work.order
        self._vectors = files.vectors
        self._blocks = files.blocks if len(roster.idle) > 1 else None
        self._params_ref = None
        if self._vectors is None:
            self._params_ref = self._ray.put(turn.params)
            self._answers = np.empty((int(work.tiles[-1]), *work.answer_shape), turn.params.dtype)
        else:
            self._vectors.params(turn.number)[:] = turn.params
            self._answers = self._vectors.answers(turn.number)
        self._backlog: Backlog[RayWorker] = Backlog(costs)
        self._value: Any = None
        self._tile_costs: NDArray[np.float64] | None = None
        if kept is not None:
            recalled, self._value = kept.recall(turn.step, turn.params, self._answers)
            self._backlog.left[recalled] = False
        # One task of a turn asks for the value and the costs.
        self._asked_for_value = self._value is not None
        self._replies: list[tuple[RayWorker, Shard, Reply]] = []
        self.n_lost = 0
        self.last_reason = ""

    def give(self, worker: RayWorker, shard: Shard, n_lost: int = 0, rank: float = 0.0) -> None:
        """Give a worker the unfinished tiles of a shard, or a first part of them if they take long.

        Args:
            worker: An idle worker.
            shard: Tiles to compute.
            n_lost: Number of workers lost so far with these tiles.
            rank: Position of the worker among those of this turn, at least 0 and below 1; it decides which
                shared block the worker tries first.
        """
        shard = self._backlog.unfinished(shard)
        if not len(shard):
            return
        n = len(shard)
        if self._kept is not None or self._deadlines.turn_s is not None:
            n = first_part(shard, self._costs, self._deadlines.turn_s, worker.speed)
        part = shard[:n]
        self._backlog.set_rest(worker, shard[n:])
        first, self._asked_for_value = not self._asked_for_value, True
        turn = self._turn
        task = RayTask(
            turn.number,
            turn.step,
            part,
            first,
            more=n < len(shard),
            n_threads=turn.n_threads,
            variant=turn.variant,
            vectors=None if self._vectors is None else self._vectors.file,
            blocks=None if self._blocks is None else (self._blocks.file, self._blocks.shape),
            rank=rank,
        )
        load = float(self._costs[part].sum()) / worker.speed
        self._channel.send(worker, task, self._params_ref, load, n_lost)

    def _hand_out(self) -> None:
        """Give every idle worker something, if there is anything."""
        for worker in self._roster.idle:
            part = self._backlog.next_for(worker, self._pending.is_blocked)
            if part is None and self._copy_an_overdue_task():
                part = self._backlog.next_for(worker, self._pending.is_blocked)
            if part is not None:
                self.give(worker, *part)

    def _copy_an_overdue_task(self) -> bool:
        """Make the tiles of an overdue task available to idle workers; return whether there is such a task."""
        for worker in self._pending.workers:
            call = worker.call
            if call is not None and not call.copied and self._pending.is_overdue(call):
                call.copied = True
                self._reopen(call, len(self._roster.idle), call.n_lost)
                return True
        return False

    def _reopen(self, call: Call, n_parts: int, n_lost: int) -> None:
        """Make the unfinished tiles of a call available to every idle worker."""
        if call.task.first and self._value is None:
            self._asked_for_value = False
        self._backlog.reopen(call.task.shard, n_parts, n_lost)

    def collect(self) -> Gathered:
        """Wait until all tiles are finished."""
        pending = self._pending
        if pending.workers and not self._backlog.has_rests():
            self._collect_at_once()
        while self._backlog.left.any():
            self._hand_out()
            if pending.workers:
                for worker in pending.replied():
                    self._receive(worker)
                self._give_up_silent_workers()
            else:
                self._roster.wait_for_one(self._turn.step, self._deadlines.deadline)
        answers = self._answers if self._vectors is None else self._answers.copy()
        return Gathered(
            answers, self._value, self._tile_costs, list(self._replies), _timings(self._replies, self._turn.n_threads)
        )

    def _collect_at_once(self) -> None:
        """Receive all replies, until one is late or fails; the caller receives the rest one by one."""
        began, patience_s = perf_counter(), self._pending.longest_patience()
        try:
            for worker, reply in self._channel.receive_all(self._pending.workers, patience_s):
                self._finish(worker, unpacked_reply(reply))
        except (self._ray.exceptions.RayError, ConnectionError, ValueError):
            pass  # the same error is met again, and handled, when replies are received one by one
        self._pending.forgive_a_pause(began, patience_s)

    def _receive(self, worker: RayWorker) -> None:
        """Receive a worker's reply, its exception, or the news of its death."""
        ray, call = self._ray, worker.call
        assert call is not None
        try:
            reply = unpacked_reply(self._channel.receive(worker, max(1.0, self._deadlines.deadline(call))))
        except ray.exceptions.RayTaskError as error:
            worker.call = None
            self._pending.wait_for_all()
            raise cause_of(error) from error
        except ray.exceptions.RayError as error:
            self._lose(worker, reason_of(error, worker, self._roster.here))
        except (ConnectionError, ValueError) as error:  # the latter for a damaged message
            self._lose(worker, reason_of(error, worker, self._roster.here), give_up=True)
        else:
            self._finish(worker, reply)

    def _finish(self, worker: RayWorker, reply: Reply) -> None:
        call = worker.call
        assert call is not None
        shard = call.task.shard
        worker.call = None
        if reply.answers is not None:
            self._answers[positions_of(self._tiles, shard, self._order)] = reply.answers
        self._backlog.left[shard] = False
        if self._value is None and reply.value is not None:
            self._value, self._tile_costs = reply.value, reply.costs
        self._replies.append((worker, shard, reply))
        if self._kept is not None:
            self._kept.finished(shard, self._answers, self._value)

    def _lose(self, worker: RayWorker, reason: str, give_up: bool = False) -> None:
        """Make the unfinished tiles of a lost worker available to the others."""
        call = worker.call
        assert call is not None
        (self._roster.give_up if give_up else self._roster.lose)(worker, self._turn.step, reason)
        self.n_lost += 1
        self.last_reason = reason
        if call.n_lost >= _MOST_LOSSES:
            raise LostError(
                f"Workers were lost {call.n_lost + 1} times in step {self._turn.step} with the same work, the last one "
                f"because: {reason}"
            )
        n_parts = len(self._roster.working)
        if not call.copied:
            self._reopen(call, n_parts, call.n_lost + 1)
        self._backlog.drop(worker, n_parts)

    def _give_up_silent_workers(self) -> None:
        for worker in self._pending.workers:
            call = worker.call
            assert call is not None
            silent_s = perf_counter() - call.sent
            if silent_s > self._deadlines.deadline(call):
                self._lose(worker, f"it has not answered for {silent_s:.1f} s.", give_up=True)


def _timings(replies: Sequence[tuple[RayWorker, Shard, Reply]], n_threads: int) -> Timings:
    """Times of the workers in one turn."""
    seconds_of: dict[RayWorker, float] = {}
    for worker, _, reply in replies:
        seconds_of[worker] = seconds_of.get(worker, 0.0) + reply.compute_s
    computed_s = sum(seconds_of.values())
    return Timings(
        compute_s=max(seconds_of.values(), default=0.0),
        mean_compute_s=computed_s / max(len(seconds_of), 1),
        busy=sum(reply.cpu_s for _, _, reply in replies) / max(computed_s * n_threads, 1e-300),
    )
