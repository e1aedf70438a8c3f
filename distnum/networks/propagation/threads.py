"""Work of one gradient on threads: blocks of examples are prepared ahead, and their rows followed in order.

NumPy prepares the routes of a block's units, much of it under the interpreter lock. The compiled
loops that then follow the rows hold no lock, so one thread prepares while others follow. Each part
of the rows goes through the blocks in their order: sums, and so bits, do not depend on the
schedule.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from threading import Condition
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array

if TYPE_CHECKING:  # Numba is imported with the first gradient
    from distnum.networks.propagation.routes import UnitRoutes

__all__ = ["Portion", "follow", "on_threads"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Portion:
    """Some rows of a layer at one group of its units.

    Attributes:
        number: Number of the group.
        n_units: Number of its units.
        total: Sums over all examples, to be added to, shape ``(n_rows, n_columns(n_units))``.
        parts: The rows, cut into parts that threads can follow at the same time; in the order of ``total``.
        blocks: For each block of examples, a function that prepares the routes of the units.
    """

    number: int
    n_units: int
    total: Array
    parts: list[NDArray[np.int64]]
    blocks: list[Callable[[], UnitRoutes]]

    def parts_with_totals(self) -> list[tuple[NDArray[np.int64], Array]]:
        """Each part with its rows of ``total``."""
        stops = accumulate(len(rows) for rows in self.parts)
        return [(rows, self.total[stop - len(rows) : stop]) for rows, stop in zip(self.parts, stops, strict=True)]


def follow(portions: Sequence[Portion], n_threads: int, seconds: NDArray[np.float64]) -> None:
    """Follow all rows through all blocks, adding to each portion's ``total``.

    Adds the time of each group of units to ``seconds``, shape ``(n_groups,)``.
    """
    if n_threads == 1:
        for portion in portions:
            started = perf_counter()
            for prepare in portion.blocks:
                routes = prepare()
                for rows, total in portion.parts_with_totals():
                    routes.add(rows, total)
            seconds[portion.number] += perf_counter() - started
        return
    schedule = _Schedule(portions, n_threads, seconds)
    on_threads(n_threads, schedule.work, range(n_threads))
    if schedule.error is not None:
        raise schedule.error


@dataclass
class _Block:
    """A block of examples of a portion.

    Attributes:
        before, after: The portion's neighbouring blocks.
        routes: The prepared routes; None before that, and after all parts are done.
        done: Numbers of the parts that have been followed.
    """

    portion: Portion
    prepare: Callable[[], UnitRoutes]
    parts: list[tuple[NDArray[np.int64], Array]]
    before: _Block | None
    after: _Block | None = None
    routes: UnitRoutes | None = None
    done: set[int] = field(default_factory=set)

    def ready_for(self, part: int) -> bool:
        """Whether the part can be followed through this block now."""
        return self.routes is not None and (self.before is None or part in self.before.done)


class _Schedule:
    """Gives threads their next task: to prepare a block, or to follow a part through a block."""

    def __init__(self, portions: Sequence[Portion], n_threads: int, seconds: NDArray[np.float64]) -> None:
        self._n_threads = n_threads
        self._seconds = seconds
        self._changed = Condition()
        self._ready: deque[tuple[_Block, int]] = deque()
        self._to_prepare: deque[_Block] = deque()
        for portion in portions:
            before, parts = None, portion.parts_with_totals()
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
        """Do tasks until none is left or one has failed; what a thread does."""
        while (task := self._next()) is not None:
            block, part = task
            started = perf_counter()
            try:
                if part is None:
                    block.routes = block.prepare()
                elif block.routes is not None:
                    block.routes.add(*block.parts[part])
            except BaseException as error:
                self.error = error
            self._finish(block, part, perf_counter() - started)

    def _next(self) -> tuple[_Block, int | None] | None:
        """The next task: a block to prepare if none is being prepared, else a part to follow, else a block."""
        with self._changed:
            while self._n_left and self.error is None:
                may_prepare = self._to_prepare and self._n_preparing + self._n_prepared <= self._n_threads
                few_prepared = self._n_preparing == 0 and self._n_prepared < 2
                if may_prepare and (few_prepared or not self._ready):
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
                self._ready.extend((block, one) for one in range(len(block.parts)) if block.ready_for(one))
            else:
                block.done.add(part)
                if block.after is not None and block.after.ready_for(part):
                    self._ready.append((block.after, part))
                if len(block.done) == len(block.parts):
                    block.routes = block.after = None
                    self._n_prepared -= 1
                    self._n_left -= 1
            self._changed.notify_all()


def on_threads(n_threads: int, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results of ``call`` for each of the items, in their order."""
    if n_threads == 1 or len(items) == 1:
        return [call(item) for item in items]

    def without_warnings(item: T) -> R:
        with np.errstate(over="ignore", invalid="ignore"):  # a thread does not inherit it
            return call(item)

    return list(_threads(n_threads, os.getpid()).map(without_warnings, items))


@cache
def _threads(n_threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads of the process with this id: a copy of the process (fork) has none of them."""
    return ThreadPoolExecutor(n_threads)
