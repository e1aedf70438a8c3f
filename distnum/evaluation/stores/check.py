"""Whether a function is still the one whose evaluations a store has."""

from __future__ import annotations

import logging
from time import time

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.outcomes import Backend, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.stores.identity import FunctionIdentity, point_keys
from distnum.evaluation.stores.request import StoredRequest
from distnum.evaluation.stores.rows import form_text
from distnum.storage.evaluation_rows import FunctionRecord
from distnum.storage.evaluations import EvaluationStore

__all__ = ["FunctionCheck", "Value"]
log = logging.getLogger("distnum")

Value = tuple[str, NDArray[np.inexact]]
"""The form of a value as JSON, and the value, flat."""


class FunctionCheck:
    """Compares functions with what a store has of them, and keeps the records of functions there.

    Args:
        backend: Who evaluates.
        store: The store.
    """

    def __init__(self, backend: Backend, store: EvaluationStore) -> None:
        self._backend, self._store = backend, store
        self._verified: set[tuple[str, str]] = set()  # keys and codes of functions

    def expected(self, request: StoredRequest) -> tuple[int, Value] | None:
        """Return a point of the request to evaluate again, and its stored value; None if nothing is left to check."""
        identity = request.identity
        known = self._store.functions.get(identity.key)
        if known is None or (identity.key, identity.code) in self._verified:
            self._verified.add((identity.key, identity.code))
            return None
        with_value = [number for number in request.hits if not self._store.failed(request.places[number])]
        lengths = np.diff(request.points.starts)
        at_base = [number for number in with_value if lengths[number] == 0]
        if not at_base and self._same_at_record(request, known):
            return None
        for number in at_base or with_value:
            expected = self._value(request.places[number])
            if expected is not None:
                request.hits.remove(number)
                return number, expected
        return None  # nothing is taken from the store, so nothing can be wrong

    def _same_at_record(self, request: StoredRequest, known: FunctionRecord) -> bool:
        """Evaluate the function at the point in its record; return whether that was possible."""
        x = known.x
        entries = np.flatnonzero(x.imag)
        points = Points(x.real.copy(), entries, x[entries], np.array([0, len(entries)]))
        if len(x) != request.call.form.size or not self._has_value(known):
            return False
        keys = point_keys(known.key, request.call, points)
        (place,) = self._store.find(keys)
        if place is None or (expected := self._value(place)) is None:
            return False  # of an argument of another form
        where = f"at the {request.call.form.what} in the function's record"
        here = StoredRequest(request.call, points, request.limits, lambda _: where, request.identity)
        for outcomes in list(here.evaluate(self._backend, [0])):
            self.compare(here, outcomes, 0, expected)
        return True

    def _value(self, place: int) -> Value | None:
        for rows, (position,), _ in self._store.read([place]):
            return str(rows.form), rows.values[position]
        return None

    def compare(self, request: StoredRequest, outcomes: Outcomes, number: int, expected: Value) -> None:
        """Compare a new value with the one in the store; from now on the function is known to be the same.

        Raises:
            InputError: They differ.
            TrainingError: There is no new value, as the function has failed.
        """
        identity, store = request.identity, self._store.name
        name, where = identity.name, request.describe(number)
        if failure := outcomes.failures.get(number):
            raise TrainingError(
                f"{name} has failed {where} ({failure.text}), so its evaluations in store {store!r} cannot be checked."
            )
        form, old = expected
        new = outcomes.values[int(np.flatnonzero(outcomes.numbers == number)[0])]
        if form != form_text(outcomes.form) or old.dtype != new.dtype or old.tobytes() != new.tobytes():
            raise InputError(
                f"the function {name} has changed, or its values differ from call to call: {where}, store {store!r} "
                f"has {_shown(old, new)}, and it returns {_shown(new, old)}. Use another store, or drop its rows: "
                f"distnum evaluations {store} --drop function={name}"
            )
        self._verified.add((identity.key, identity.code))
        known = self._store.functions[identity.key]
        same_python = known.code.partition(":")[0] == identity.code.partition(":")[0]
        if known.code != identity.code and same_python:
            log.warning(
                "the code of %s is not the one whose evaluations store %s has, but it returns the same value; they are "
                "used.",
                *(name, store),
            )
            self._add_record(identity, known.point, known.x)

    def record(self, request: StoredRequest, number: int) -> None:
        """Add a record of the function with one of the points, unless there is one at whose point it has a value."""
        known = self._store.functions.get(request.identity.key)
        if known is None or not self._has_value(known):
            self._add_record(request.identity, request.keys[number].hex(), request.points.vector(number))

    def _add_record(self, identity: FunctionIdentity, point: str, x: NDArray[np.inexact]) -> None:
        self._store.add_function(FunctionRecord(identity.key, identity.name, identity.code, point, x, time()))

    def _has_value(self, function: FunctionRecord) -> bool:
        (place,) = self._store.find([bytes.fromhex(function.point)])
        return place is not None and not self._store.failed(place)


def _shown(value: NDArray[np.inexact], other: NDArray[np.inexact]) -> str:
    """The first entry of a value whose bits differ from those of the other value."""
    if value.shape != other.shape or value.dtype != other.dtype:
        return f"{len(value)} number{'s'[: len(value) != 1]} of {value.dtype}"
    size = value.itemsize
    bits, others = (np.ascontiguousarray(one).view(np.uint8).reshape(-1, size) for one in (value, other))
    index = int(np.argmax((bits != others).any(axis=1)))
    return repr(value[index].item()) + (f" as number {index + 1} of {len(value)}" if len(value) > 1 else "")
