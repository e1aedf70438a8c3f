"""Work of one gradient on threads: blocks of examples are prepared ahead, and followed part by part, in order.

What belongs to the units of a block is prepared by NumPy, much of it under the interpreter lock;
the compiled loops that follow all rows through it hold no lock. So one thread prepares while
others follow. Every part of the rows goes through the blocks in their order: the sums, and so
the bits, do not depend on who is when at what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from threading import Condition
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.networks.propagation.routes import UnitRoutes

__all__ = ["Portion", "follow", "on_threads"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Portion:
    """Some rows of a layer, at some of its units.

    Attributes:
        number: of the group of units.
        n_units: how many they are.
        total: takes the sums over all examples, shape ``(n_rows, n_columns(n_units))``.
        parts: the rows, cut into parts that threads can be at, one after the other as in ``total``.
        blocks: each prepares how the units move some examples' losses.
    """

    number: int
    n_units: int
    total: Array
    parts: list[NDArray[np.int64]]
    blocks: list[Callable[[], UnitRoutes]]


def follow(portions: Sequence[Portion], n_threads: int, seconds: NDArray[np.float64]) -> None:
    """Add to the totals what all blocks give, and to ``seconds (n_groups,)`` what each group of units has taken."""
    if n_threads == 1:
        for portion in portions:
            started = perf_counter()
            for block in portion.blocks:
                moves = block()
                for rows, total in _parts(portion):
                    moves.add(rows, total)
            seconds[portion.number] += perf_counter() - started
        return
    pipeline = _Pipeline(portions, n_threads, seconds)
    on_threads(n_threads, pipeline.work, range(n_threads))
    if pipeline.error is not None:
        raise pipeline.error


def _parts(portion: Portion) -> list[tuple[NDArray[np.int64], Array]]:
    stops = list(accumulate(len(rows) for rows in portion.parts))
    return [(rows, portion.total[stop - len(rows) : stop]) for rows, stop in zip(portion.parts, stops, strict=True)]


@dataclass
class _Block:
    """A block on its way: ``done`` says which parts have gone through it."""

    portion: Portion
    prepare: Callable[[], UnitRoutes]
    parts: list[tuple[NDArray[np.int64], Array]]
    before: _Block | None
    after: _Block | None = None
    moves: UnitRoutes | None = None
    done: set[int] = field(default_factory=set)

    def next_for(self, part: int) -> bool:
        """Whether the part can go through this block now."""
        return self.moves is not None and (self.before is None or part in self.before.done)


class _Pipeline:
    """Who does what next."""

    def __init__(self, portions: Sequence[Portion], n_threads: int, seconds: NDArray[np.float64]) -> None:
        self._n_threads = n_threads
        self._seconds = seconds
        self._changed = Condition()
        self._ready: deque[tuple[_Block, int]] = deque()
        self._to_prepare: deque[_Block] = deque()
        for portion in portions:
            before, parts = None, _parts(portion)
            for prepare in portion.blocks:
                block = _Block(portion, prepare, parts, before)
                if before is not None:
                    before.after = block
                self._to_prepare.append(block)
                before = block
        self._n_left = len(self._to_prepare)
        self._n_preparing = self._n_prepared = 0
        self.error: BaseException | None = None

    def work(self, _: int) -> None:
        """Do what there is to do, until nothing is left."""
        with np.errstate(over="ignore", invalid="ignore"):  # which a thread does not inherit
            while (task := self._next()) is not None:
                block, part = task
                started = perf_counter()
                try:
                    if part is None:
                        block.moves = block.prepare()
                    elif block.moves is not None:
                        block.moves.add(*block.parts[part])
                except BaseException as error:
                    self.error = error
                self._finish(block, part, perf_counter() - started)

    def _next(self) -> tuple[_Block, int | None] | None:
        """What to do: prepare ahead if nobody does, else follow, else prepare."""
        with self._changed:
            while self._n_left and self.error is None:
                room = self._to_prepare and self._n_preparing + self._n_prepared <= self._n_threads
                ahead = self._n_preparing == 0 and self._n_prepared < 2
                if room and (ahead or not self._ready):
                    self._n_preparing += 1
                    return self._to_prepare.popleft(), None
                if self._ready:
                    return self._ready.popleft()
                self._changed.wait()
            return None

    def _finish(self, block: _Block, part: int | None, seconds: float) -> None:
        with self._changed:
            self._seconds[block.portion.number] += seconds / self._n_threads
            if part is None:
                self._n_preparing -= 1
                self._n_prepared += 1
                self._ready.extend((block, one) for one in range(len(block.parts)) if block.next_for(one))
            else:
                block.done.add(part)
                if block.after is not None and block.after.next_for(part):
                    self._ready.append((block.after, part))
                if len(block.done) == len(block.parts):
                    block.moves = block.after = None
                    self._n_prepared -= 1
                    self._n_left -= 1
            self._changed.notify_all()


def on_threads(n_threads: int, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``call`` of each of the items, in their order."""
    if n_threads == 1 or len(items) == 1:
        return [call(item) for item in items]

    def quietly(item: T) -> R:
        with np.errstate(over="ignore", invalid="ignore"):
            return call(item)

    return list(_threads(n_threads).map(quietly, items))


@cache
def _threads(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads)
