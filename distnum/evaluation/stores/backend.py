"""A backend that keeps every evaluation in a store, and takes from the store what is there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np

from distnum.common.errors import InputError
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Backend, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.stores.check import FunctionCheck, Value
from distnum.evaluation.stores.identity import FunctionIdentity, identity_of
from distnum.evaluation.stores.request import StoredRequest
from distnum.evaluation.stores.rows import merged, outcomes_of, rows_of
from distnum.storage.evaluations import EvaluationStore

__all__ = ["StoredBackend", "stored"]


@contextlib.contextmanager
def stored(
    backend: Backend, store: str | os.PathLike[str] | EvaluationStore, retry_failed: bool = False
) -> Iterator[StoredBackend]:
    """A backend with a store, which is closed at the end of the ``with`` block unless it was open.

    Args:
        backend: Who evaluates what the store lacks.
        store: A folder, which is made if it is missing, a URI, or an open store.
        retry_failed: Whether to evaluate again what has failed.

    Raises:
        InputError: The store cannot be used.
    """
    if isinstance(store, EvaluationStore):
        yield StoredBackend(backend, store, retry_failed)
        return
    if not isinstance(store, (str, os.PathLike)):
        raise InputError(f"store is {store!r:.60}; it must be a folder or a URI.")
    with EvaluationStore(os.fspath(store)) as opened:
        yield StoredBackend(backend, opened, retry_failed)


class StoredBackend:
    """A ``Backend`` with a store.

    Every finished evaluation is added to the store before it is yielded, failures too, except those of workers that
    were lost. What the store has is yielded first, whatever request it was evaluated for, as keys are those of points.

    Before anything is taken from a function's evaluations of an earlier session, or after its code has changed, one of
    them is repeated: the base point if the store has its value, otherwise the point in the function's record, otherwise
    a point of the request. Its bits must be the same. Meanwhile, new values wait in memory.

    A stored failure is yielded as such, unless ``limits`` ask for something else: it is tried again if more retries
    are allowed than there were, a timeout if the limit is now longer, an exception if it is to be raised.

    Args:
        backend: Who evaluates what the store lacks.
        store: The store, which the caller closes.
        retry_failed: Whether to evaluate again what has failed.
    """

    def __init__(self, backend: Backend, store: EvaluationStore, retry_failed: bool = False) -> None:
        self._backend = backend
        self._store = store
        self._retry_failed = retry_failed
        self._check = FunctionCheck(backend, store)
        self._last: tuple[FunctionCall, FunctionIdentity] | None = None

    @property
    def n_workers(self) -> int:
        """Number of evaluations at the same time."""
        return self._backend.n_workers

    def evaluate(
        self, call: FunctionCall, points: Points, limits: Limits, describe: Callable[[int], str]
    ) -> Iterator[Outcomes]:
        """Yield the outcomes of all points: first those in the store, as cached.

        Raises:
            InputError: The function does not return the value that the store has, or has no key.
            TrainingError: The evaluation that is repeated has failed.
        """
        request = StoredRequest(call, points, limits, describe, self.identity(call))
        request.find(self._store, self._retry_failed)
        expected = self._check.expected(request)
        if expected is None:
            yield from self._stored(request)
            yield from self._new(request)
        else:
            yield from self._checked(request, *expected)
        if request.unreadable:
            request.misses = request.unreadable
            yield from self._new(request)

    def identity(self, call: FunctionCall) -> FunctionIdentity:
        """Return the function's identity; found once for all rounds and steps, as its arguments may be large.

        Raises:
            InputError: The function, or an argument, has no key.
        """
        if self._last is None or not call.is_of(self._last[0]):
            self._last = call, identity_of(call)
        identity = self._last[1]
        return identity if call.batch_at is None else identity.at_step(call.step)

    # --- what the store has -------------------------------------------------------

    def _stored(self, request: StoredRequest) -> Iterator[Outcomes]:
        numbers = request.hits
        found: set[int] = set()

        def parts() -> Iterator[Outcomes]:
            for rows, positions, order in self._store.read([request.places[number] for number in numbers]):
                wanted = [numbers[number] for number in order]
                with contextlib.suppress(ValueError):
                    outcomes = outcomes_of(rows, positions, np.array(wanted))
                    found.update(wanted)
                    yield outcomes

        yield from merged(parts())
        request.unreadable = [number for number in numbers if number not in found]

    # --- what is evaluated --------------------------------------------------------

    def _new(self, request: StoredRequest) -> Iterator[Outcomes]:
        with contextlib.closing(request.evaluate(self._backend, request.misses)) as stream:
            for outcomes in stream:
                self._add(request, outcomes)
                yield outcomes

    def _add(self, request: StoredRequest, outcomes: Outcomes) -> None:
        """Add to the store what it does not have yet."""
        there = self._store.find([request.keys[number] for number in outcomes.numbers])
        new = [
            position
            for position, place in enumerate(there)
            if (place is None or self._store.failed(place)) and not _is_lost(outcomes, position)
        ]
        if not new:
            return
        rows = rows_of(request.call, request.points, outcomes, new, request.keys, request.identity.key, request.limits)
        failed = {position for position, *_ in rows.failures}
        best = next((position for position in range(len(rows)) if position not in failed), 0)
        self._check.record(request, int(outcomes.numbers[new[best]]))
        self._store.add(rows)

    def _checked(self, request: StoredRequest, check: int, expected: Value) -> Iterator[Outcomes]:
        """Evaluate one point again with those that the store lacks; yield nothing before it is known to be the same."""
        waiting: list[Outcomes] | None = []
        failed: Outcomes | None = None
        with contextlib.closing(request.evaluate(self._backend, [check, *request.misses])) as stream:
            for outcomes in stream:
                if waiting is not None:
                    waiting.append(outcomes)
                    if check not in outcomes.numbers:
                        continue
                    if check in outcomes.failures and request.limits.raises:
                        failed = outcomes  # the function's own exception comes next
                        continue
                    self._check.compare(request, outcomes, check, expected)
                    yield from self._stored(request)
                    ready, waiting = waiting, None
                else:
                    ready = [outcomes]
                for one in ready:
                    self._add(request, one)
                    yield one
        if failed is not None:
            self._check.compare(request, failed, check, expected)


def _is_lost(outcomes: Outcomes, position: int) -> bool:
    """Whether there is no outcome of the function itself, which would belong into the store."""
    failure = outcomes.failures.get(int(outcomes.numbers[position]))
    return failure is not None and failure.kind == "lost"
