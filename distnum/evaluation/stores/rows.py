"""Turns outcomes of evaluations into rows of a store, and rows back into outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from time import time

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.call import FunctionCall
from distnum.evaluation.outcomes import Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.values import ValueForm
from distnum.storage.evaluation_rows import Rows

__all__ = ["form_text", "is_final", "merged", "outcomes_of", "rows_of"]

# Tracebacks are shortened to this many characters, their end.
_TRACEBACK = 4000
# Outcomes from the store are put together up to this many points and bytes.
_MOST_POINTS, _MOST_BYTES = 1024, 8 * 2**20


def rows_of(
    call: FunctionCall,
    points: Points,
    outcomes: Outcomes,
    positions: Sequence[int],
    keys: Sequence[bytes],
    function_key: str,
    limits: Limits,
) -> Rows:
    """Return the rows for some of the outcomes.

    Args:
        call: The function.
        points: All points that were asked for.
        outcomes: Some of their outcomes.
        positions: Positions in ``outcomes`` of those that get rows.
        keys: Keys of all points.
        function_key: Key of the function.
        limits: What an evaluation might cost.
    """
    numbers = outcomes.numbers[list(positions)]
    begins = points.starts[numbers]
    n_moved = points.starts[numbers + 1] - begins
    one = n_moved == 1
    entries = points.entries[begins[one]]
    moved_to = np.full(len(numbers), np.nan, points.values.dtype)
    moved_to[one] = points.values[begins[one]]
    offsets = np.where(n_moved == 0, points.values.dtype.type(0), moved_to)
    offsets[one] -= points.base[entries]
    names = [f"{n} entries" if n else "" for n in n_moved.tolist()]
    for position, entry in zip(np.flatnonzero(one).tolist(), entries.tolist(), strict=True):
        names[position] = call.form.entry_name(entry)
    failures = []
    for position, number in enumerate(numbers.tolist()):
        if failure := outcomes.failures.get(number):
            texts = failure.kind, failure.text, failure.traceback[-_TRACEBACK:]
            failures.append([position, *texts, failure.attempts, failure.host])
    return Rows(
        function_key,
        [keys[number] for number in numbers.tolist()],
        names,
        offsets,
        moved_to,
        form_text(outcomes.form),
        outcomes.values[list(positions)],
        failures,
        limits.timeout,
        np.asarray(outcomes.seconds, np.float64)[list(positions)],
        outcomes.host,
        time(),
    )


def outcomes_of(rows: Rows, positions: Sequence[int], numbers: NDArray[np.int64]) -> Outcomes:
    """Return the outcomes in some rows.

    Args:
        rows: The rows.
        positions: Positions of those that are wanted.
        numbers: Their numbers as points.

    Raises:
        ValueError: The form of the values is none, or does not fit them.
    """
    form = None if rows.form is None else _form(rows.form)
    if rows.values.shape[1] != (0 if form is None else form.size):
        raise ValueError("the values have another form")
    of = dict(zip(positions, numbers.tolist(), strict=True))
    failures = {of[position]: Failure(*rest) for position, *rest in rows.failures if position in of}
    part = list(positions)
    return Outcomes(numbers, rows.values[part], form, rows.seconds[part], failures, rows.host, cached=True)


@lru_cache(maxsize=64)
def _form(text: str) -> ValueForm:
    try:
        return ValueForm.from_json(json.loads(text))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no form of values: {error}") from None


def merged(parts: Iterator[Outcomes]) -> Iterator[Outcomes]:
    """Yield the same outcomes from the store, several parts with the same form and host together."""
    waiting: list[Outcomes] = []
    n_points = n_bytes = 0
    for part in parts:
        first = waiting[0] if waiting else part
        full = n_points >= _MOST_POINTS or n_bytes >= _MOST_BYTES
        if full or (part.form, part.host, part.values.dtype) != (first.form, first.host, first.values.dtype):
            yield _together(waiting)
            waiting, n_points, n_bytes = [], 0, 0
        waiting.append(part)
        n_points, n_bytes = n_points + len(part.numbers), n_bytes + part.values.nbytes
    if waiting:
        yield _together(waiting)


def _together(parts: list[Outcomes]) -> Outcomes:
    first = parts[0]
    if len(parts) == 1:
        return first
    failures: dict[int, Failure] = {}
    for part in parts:
        failures |= part.failures
    return Outcomes(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.values for part in parts]),
        first.form,
        np.concatenate([part.seconds for part in parts]),
        failures,
        first.host,
        cached=True,
    )


def is_final(rows: Rows, position: int, limits: Limits) -> bool:
    """Return whether a failure answers a request, rather than being tried again."""
    kind, attempts = next((row[1], row[4]) for row in rows.failures if row[0] == position)
    if attempts <= limits.retries or (limits.raises and kind in ("exception", "value")):
        return False
    if kind == "timeout":
        return rows.timeout is not None and limits.timeout is not None and limits.timeout <= rows.timeout
    return True


def form_text(form: ValueForm | None) -> str | None:
    """Return a form of values as JSON."""
    return None if form is None else json.dumps(form.to_json())
