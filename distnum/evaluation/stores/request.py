"""The points that are asked of a backend with a store: which the store has, and which are to be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Backend, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.stores.identity import FunctionIdentity, point_keys
from distnum.evaluation.stores.rows import is_final
from distnum.storage.evaluations import EvaluationStore

__all__ = ["StoredRequest"]


class StoredRequest:
    """The points that are wanted, and where they come from.

    Args:
        call, points, limits, describe: As for ``Backend.evaluate``.
        identity: Identity of the function.

    Attributes:
        keys: Keys of the points.
        places: Places of the points in the store.
        hits: Numbers of the points that are taken from the store.
        misses: Numbers of those that are evaluated.
        unreadable: Numbers of hits that could not be read.
    """

    def __init__(
        self,
        call: FunctionCall,
        points: Points,
        limits: Limits,
        describe: Callable[[int], str],
        identity: FunctionIdentity,
    ) -> None:
        self.call, self.points, self.limits, self.describe, self.identity = call, points, limits, describe, identity
        self.keys: list[bytes] = []
        self.places: list[Any] = []
        self.hits: list[int] = []
        self.misses: list[int] = []
        self.unreadable: list[int] = []

    def find(self, store: EvaluationStore, retry_failed: bool) -> None:
        """Look the points up.

        Args:
            store: The store.
            retry_failed: Whether to evaluate again what has failed.
        """
        self.keys = point_keys(self.identity.key, self.call, self.points)
        places: list[Any] = store.find(self.keys)
        self.places = places
        there = [n for n, place in enumerate(places) if place is not None]
        wanted = [n for n in there if not store.failed(places[n])]
        failed = [n for n in there if store.failed(places[n])]
        if not retry_failed:
            for rows, positions, order in store.read([places[n] for n in failed]):
                final = {position for position in positions if is_final(rows, position, self.limits)}
                wanted += [failed[o] for position, o in zip(positions, order, strict=True) if position in final]
        hits = set(wanted)
        self.hits = sorted(hits)
        self.misses = [n for n in range(len(places)) if n not in hits]

    def evaluate(self, backend: Backend, numbers: list[int]) -> Generator[Outcomes, None, None]:
        """Evaluate some of the points, without a store."""
        if not numbers:
            return
        of = np.array(numbers, np.int64)
        points, describe = self.points.take(of), self.describe
        stream = backend.evaluate(self.call, points, self.limits, lambda number: describe(int(of[number])))
        try:
            for outcomes in stream:
                yield outcomes.renumbered(of)
        finally:
            close: Any = getattr(stream, "close", None)
            if close is not None:
                close()
