"""The unfinished tiles of one turn: who has which, and what an idle worker takes next. No Ray here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from distnum.workers.tiles import Shard, make_shards

__all__ = ["Backlog"]

W = TypeVar("W", bound=Hashable)


class Backlog(Generic[W]):
    """Unfinished tiles of one turn.

    A worker's shard is handed out in parts; what it has not been given yet is its *rest*. Tiles of
    lost workers, and copies of overdue tiles, are *open* to every worker.

    Args:
        costs: Costs of all tiles, as fractions of their sum, shape ``(n_tiles,)``.

    Attributes:
        left: Whether each tile is unfinished, shape ``(n_tiles,)``.
    """

    def __init__(self, costs: NDArray[np.float64]) -> None:
        self._costs = costs
        self._rest: dict[W, Shard] = {}
        self._open: deque[tuple[Shard, int]] = deque()
        self.left = np.ones(len(costs), bool)

    def unfinished(self, shard: Shard) -> Shard:
        """The unfinished tiles of a shard."""
        return shard if self.left.all() else shard[self.left[shard]]

    def set_rest(self, worker: W, rest: Shard) -> None:
        """Replace a worker's rest."""
        self._rest[worker] = rest

    def has_rests(self) -> bool:
        """Whether some worker has a rest."""
        return any(len(rest) for rest in self._rest.values())

    def next_for(self, worker: W, blocked: Callable[[W], bool]) -> tuple[Shard, int] | None:
        """What an idle worker takes next, and the number of workers lost with it.

        In this order: its own rest, open tiles, half of the largest rest of another worker (all of
        it if that worker is ``blocked``: lost or overdue). None if nothing is left to take.
        """
        shard = self.unfinished(self._rest.pop(worker, _NOTHING))
        if len(shard):
            return shard, 0
        while self._open:
            shard, n_lost = self._open.popleft()
            shard = self.unfinished(shard)
            if len(shard):
                return shard, n_lost
        rests = {other: self.unfinished(rest) for other, rest in self._rest.items()}
        largest = max(rests, key=lambda other: float(self._costs[rests[other]].sum()), default=None)
        if largest is None or not len(rests[largest]):
            return None
        rest = rests[largest]
        n_kept = 0 if blocked(largest) else len(rest) // 2
        self._rest[largest] = rest[:n_kept]
        return rest[n_kept:], 0

    def reopen(self, shard: Shard, n_parts: int, n_lost: int) -> None:
        """Open the unfinished tiles of a shard to all workers, in at most ``n_parts`` parts of similar cost."""
        shard = self.unfinished(shard)
        parts = make_shards(self._costs[shard], max(1, n_parts)) if len(shard) else []
        self._open.extend((shard[part], n_lost) for part in parts if len(part))

    def drop(self, worker: W, n_parts: int) -> None:
        """Open the rest of a lost worker to the others."""
        self.reopen(self._rest.pop(worker, _NOTHING), n_parts, 0)


_NOTHING: Shard = np.empty(0, np.int64)
