"""One gradient gathered from Ray actors, through any loss of theirs.

Every worker gets its shard, in parts if it takes long. Who has nothing left to do takes over
what is unfinished of workers that are lost, then what others have not begun, then copies
of what is overdue. A tile's slice is the same bits wherever it is computed, so it does not
matter whose comes first, and none is ever added to another.
"""

from __future__ import annotations

import pickle
from collections import deque
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import TrainingError
from distnum.workers.pool import Gathered, GradSlice, KeptSlices
from distnum.workers.ray_pool.actor import Task, cause_of, reason_of
from distnum.workers.ray_pool.channel import Call, RayWorker
from distnum.workers.ray_pool.deadlines import GIVE_UP_S, Timing
from distnum.workers.ray_pool.roster import Roster
from distnum.workers.ray_pool.shared_memory import SharedBlocks, SharedVectors
from distnum.workers.serial_pool import first_part
from distnum.workers.tiles import Shard, make_shards, positions_of
from distnum.workers.work import Objective

__all__ = ["Gathering"]

# The same tiles may be lost with so many workers; then it is they that end workers.
_MOST_LOSSES = 3
_LONGEST_WAIT_S = 1.0


class Gathering:
    """One gradient on its way: what is left, who is at what, and what came back.

    Args:
        ray: the module, connected.
        workers: who can be given work.
        timing: how long work should take.
        objective: whose gradient it is.
        shared: the file for parameters and gradient; None sends them.
        costs: of the tiles, in shares of all.
        turn: number of the gradient.
        step, params: where it is taken.
        kept: keeps what is finished.
        board: for what workers find for each other, if they do.
    """

    def __init__(
        self,
        ray: Any,
        workers: Roster,
        timing: Timing,
        objective: Objective,
        shared: SharedVectors | None,
        costs: NDArray[np.float64],
        turn: int,
        step: int,
        params: Array,
        kept: KeptSlices | None,
        board: SharedBlocks | None = None,
    ) -> None:
        self._ray = ray
        self._timing = timing
        self._workers = workers
        self._channel = workers.channel
        self._step = step
        self._turn = turn
        self._kept = kept
        self.costs = costs
        self._tiles, self._order = objective.tiles, objective.order
        self._shared = shared
        self._board = None if board is None else (board.file, board.shape)
        self._sent = None
        if self._shared is None:
            self._sent = self._ray.put(params)
            self._grad = np.empty(params.shape, params.dtype)
        else:
            self._shared.params(self._turn)[:] = params
            self._grad = self._shared.grad(self._turn)
        self._left = np.ones(len(self._tiles) - 1, bool)
        self._loss: float | None = None
        self._tile_costs: NDArray[np.float64] | None = None
        if kept is not None:
            there, self._loss = kept.recall(step, params, self._grad)
            self._left[there] = False
        self._rest: dict[RayWorker, Shard] = {}
        self._lost: deque[tuple[Shard, int]] = deque()
        self.answers: list[tuple[RayWorker, Shard, GradSlice]] = []
        self.n_lost = 0
        self.last_reason = ""
        # What was sent of the whole gradient to who is to tell its loss; others need not.
        self._asked_for_loss = self._loss is not None

    # --- handing out --------------------------------------------------------------

    def give(self, worker: RayWorker, shard: Shard, n_lost: int = 0, rank: float = 0.0) -> bool:
        """Give a worker a shard, or a first part of it if it takes long; returns False if nothing of it is left.

        ``rank`` is where among the workers this one is, from 0 to below 1.
        """
        if not self._left.all():
            shard = shard[self._left[shard]]
        if not len(shard):
            self._rest.pop(worker, None)
            return False
        n = first_part(shard, self.costs, self._timing.gradient_s, worker.speed) if self._cut() else len(shard)
        part, self._rest[worker] = shard[:n], shard[n:]
        first = not self._asked_for_loss
        self._asked_for_loss = True
        file = self._shared.file if self._shared is not None else None
        number, n_threads = self._step + self._workers.offset, self._workers.n_threads
        task = Task(self._turn, number, part, first, n < len(shard), file, n_threads, self._board, rank)
        self._channel.ask(worker, task, self._sent, float(self.costs[part].sum()) / worker.speed, n_lost)
        return True

    def _cut(self) -> bool:
        """Whether to hand out parts: the first time only where finished ones are kept."""
        return self._kept is not None or self._timing.gradient_s is not None

    def _hand_out(self) -> None:
        """Give every idle worker something, if there is anything."""
        for worker in self._workers.idle:
            if self.give(worker, self._rest.get(worker, np.empty(0, np.int64))):
                continue
            while self._lost:
                shard, n_lost = self._lost.popleft()
                if self.give(worker, shard, n_lost):
                    break
            else:
                if not self._steal(worker):
                    self._copy(worker)

    def _steal(self, worker: RayWorker) -> bool:
        """Half of what the one with most to do has not begun."""
        open_rest = {w: rest[self._left[rest]] for w, rest in self._rest.items() if w is not worker}
        longest = max(open_rest, key=lambda w: float(self.costs[open_rest[w]].sum()), default=None)
        if longest is None or not len(open_rest[longest]):
            return False
        rest = open_rest[longest]
        n = 0 if longest.call is None or self._overdue(longest.call) else len(rest) // 2
        self._rest[longest] = rest[:n]
        return self.give(worker, rest[n:])

    def _copy(self, worker: RayWorker) -> None:
        """What is overdue, cut among those who are idle; whoever is first counts."""
        for slow in self._workers.working:
            call = slow.call
            if call is None or call.task.turn != self._turn or call.copied or not self._overdue(call):
                continue
            call.copied = True
            self._hand_back(call, len(self._workers.idle), call.n_lost)
            if self._lost:
                self.give(worker, *self._lost.popleft())
            return

    def _hand_back(self, call: Call, n_parts: int, n_lost: int) -> None:
        """Put what is left of a call among what is lost."""
        if call.task.first and self._loss is None:
            self._asked_for_loss = False
        self._put_back(call.task.shard, n_parts, n_lost)

    def _put_back(self, shard: Shard, n_parts: int, n_lost: int) -> None:
        """Put what is left of a shard among what is lost, in so many parts."""
        shard = shard[self._left[shard]]
        parts = make_shards(self.costs[shard], max(1, n_parts)) if len(shard) else []
        self._lost.extend((shard[part], n_lost) for part in parts if len(part))

    def _overdue(self, call: Call) -> bool:
        return perf_counter() > call.sent + self._timing.patience(call)

    # --- gathering ----------------------------------------------------------------

    def collect(self) -> Gathered:
        """Wait until nothing is left."""
        asked = self._asked()
        if asked and not any(len(rest) for rest in self._rest.values()):
            self._collect_at_once(asked)
        while self._left.any():
            self._hand_out()
            asked = self._asked()
            if asked:
                for worker in self._wait(asked):
                    self._take(worker)
                self._give_up_the_silent()
            else:
                self._workers.wait_for_one(self._step, self._timing.deadline)
        assert self._loss is not None
        of_worker: dict[RayWorker, float] = {}
        for worker, _, one in self.answers:
            of_worker[worker] = of_worker.get(worker, 0.0) + one.compute_s
        return Gathered(
            grad=self._grad if self._shared is None else self._grad.copy(),
            loss=self._loss,
            costs=self._tile_costs,
            compute_s=max(of_worker.values(), default=0.0),
            mean_compute_s=sum(of_worker.values()) / max(len(of_worker), 1),
            answers=[(shard, one) for _, shard, one in self.answers],
        )

    def _asked(self) -> list[RayWorker]:
        """Those whose answers are due of this turn."""
        return [w for w in self._workers.working if w.call is not None and w.call.task.turn == self._turn]

    def _collect_at_once(self, asked: list[RayWorker]) -> None:
        """All answers, if none is late and none is an error."""
        began, patience_s = perf_counter(), self._longest_patience(asked)
        try:
            for worker, answer in self._channel.answers(asked, patience_s):
                self._finish(worker, pickle.loads(answer))
        except (self._ray.exceptions.RayError, ConnectionError):  # of one of them; or it takes too long
            pass  # and is met again, where they are taken one by one
        self._forgive_a_pause(began, patience_s)

    def _wait(self, asked: list[RayWorker]) -> list[RayWorker]:
        """Those whose answers have come; none if it is time to look at who is late."""
        now = perf_counter()
        due_s = _LONGEST_WAIT_S
        for worker in asked:
            call = worker.call
            assert call is not None
            until = self._timing.deadline(call) if call.copied else self._timing.patience(call)
            due_s = min(due_s, max(0.01, call.sent + until - now))
        answered = self._channel.answered(asked, due_s)
        self._forgive_a_pause(now, due_s)
        return answered

    def _forgive_a_pause(self, began: float, at_most_s: float) -> None:
        """Count it as nobody's lateness if this process itself was stopped while it waited."""
        excess_s = perf_counter() - began - at_most_s
        if excess_s > _LONGEST_WAIT_S:
            for worker in self._workers.working:
                if worker.call is not None:
                    worker.call.sent += excess_s

    def _longest_patience(self, asked: list[RayWorker]) -> float:
        return max(self._timing.patience(worker.call) for worker in asked if worker.call is not None)

    def _take(self, worker: RayWorker) -> None:
        """The answer of a worker, or its end."""
        ray, call = self._ray, worker.call
        assert call is not None
        try:
            answer = pickle.loads(self._channel.answer(worker, max(1.0, self._timing.deadline(call))))
        except ray.exceptions.RayTaskError as error:
            worker.call = None
            self._wait_for_others()
            raise cause_of(error) from error
        except ray.exceptions.RayError as error:
            self._lose(worker, reason_of(error))
        except ConnectionError as error:
            self._lose(worker, reason_of(error), give_up=True)
        else:
            self._finish(worker, answer)

    def _wait_for_others(self) -> None:
        """So that they are idle again, if all goes well, where the step is given up."""
        if asked := self._asked():
            ends = perf_counter() + min(self._longest_patience(asked), GIVE_UP_S)
            while asked and (answered := self._channel.answered(asked, max(0.0, ends - perf_counter()))):
                asked = [worker for worker in asked if worker not in answered]

    def _finish(self, worker: RayWorker, one: GradSlice) -> None:
        call = worker.call
        assert call is not None
        shard = call.task.shard
        worker.call = None
        if one.values is not None:
            self._grad[positions_of(self._tiles, shard, self._order)] = one.values
        self._left[shard] = False
        if self._loss is None and one.loss is not None:
            self._loss, self._tile_costs = one.loss, one.costs
        self.answers.append((worker, shard, one))
        if self._kept is not None:
            self._kept.finished(shard, self._grad, self._loss)

    def _lose(self, worker: RayWorker, why: str, give_up: bool = False) -> None:
        """A worker is gone: its unfinished tiles are for the others."""
        call = worker.call
        assert call is not None
        rest = self._rest.pop(worker, np.empty(0, np.int64))
        (self._workers.give_up if give_up else self._workers.lose)(worker, self._step, why)
        self.n_lost += 1
        self.last_reason = why
        if call.n_lost >= _MOST_LOSSES:
            raise TrainingError(
                f"Workers were lost {call.n_lost + 1} times in step {self._step} with the same work, the last one "
                f"because: {why} A worker that keeps dying is usually out of memory; try fewer workers."
            )
        n_live = len(self._workers.working)
        if not call.copied:
            self._hand_back(call, n_live, call.n_lost + 1)
        self._put_back(rest, n_live, 0)

    def _give_up_the_silent(self) -> None:
        for worker in self._asked():
            call = worker.call
            assert call is not None
            silent_s = perf_counter() - call.sent
            if silent_s > self._timing.deadline(call):
                self._lose(worker, f"it has not answered for {silent_s:.1f} s.", give_up=True)
