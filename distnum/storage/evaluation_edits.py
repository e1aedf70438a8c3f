"""Changes of stores of evaluations as a whole: rows are removed, and other stores are added."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from distnum.common.errors import InputError, TrainingError
from distnum.storage.evaluation_rows import FunctionRecord, Rows, content_of_rows, function_in, rows_in
from distnum.storage.evaluations import EvaluationStore
from distnum.storage.frames import framed, frames
from distnum.storage.segment_folders import Folder, open_folder

__all__ = ["Wanted", "drop", "merge"]

Wanted = Callable[[Rows], list[int]]
"""Returns the positions of the rows that are meant."""


def drop(location: str | Path, meant: Wanted) -> int:
    """Remove rows from a store, and return how many were removed. Each file is replaced as a whole.

    Args:
        location: The folder or URI.
        meant: Which rows are removed.

    Raises:
        InputError: The store is not found, cannot be read, or another process writes to it.
        TrainingError: A file cannot be written. What was not removed yet is intact.
    """
    folder = open_folder(location, new=False)
    with ExitStack() as held:
        held.callback(folder.close)
        try:
            names = folder.names()
            for name in names:
                descriptor = folder.lock(name)
                if descriptor is not None:
                    held.callback(os.close, descriptor)
            contents = {name: _without(folder, name, meant) for name in names}
        except OSError as error:
            raise InputError(f"store is {folder.name!r}, which cannot be read: {error.strerror or error}.") from None
        left = {function for _, _, functions in contents.values() for function in functions}
        try:
            for name, (n_dropped, records, _) in contents.items():
                if n_dropped:
                    kept = [content for function, content in records if function is None or function in left]
                    folder.replace(name, b"".join(map(framed, kept)))
        except OSError as error:
            raise TrainingError(f"store {folder.name} cannot be written: {error.strerror or error}.") from None
    return sum(n_dropped for n_dropped, _, _ in contents.values())


_Records = list[tuple["str | None", bytes]]


def _without(folder: Folder, name: str, meant: Wanted) -> tuple[int, _Records, set[str]]:
    """Return how many rows a file loses, its other records (with the key of a function's), and their functions."""
    n_dropped = 0
    records: _Records = []
    functions: set[str] = set()
    with folder.open(name) as file:
        for _, content in frames(file):
            if content is None:
                continue
            try:
                function = function_in(content)
                if function is not None:
                    records.append((function.key, content))
                    continue
                rows = rows_in(content)
            except ValueError:
                continue  # damaged
            dropped = set(meant(rows))
            kept = [position for position in range(len(rows)) if position not in dropped]
            n_dropped += len(dropped)
            if kept:
                records.append((None, content if not dropped else content_of_rows(rows.take(kept))))
                functions.add(rows.function)
    return n_dropped, records, functions


def merge(target: EvaluationStore, other: EvaluationStore) -> int:
    """Add to a store what another one has and it lacks, and return the number of rows.

    Raises:
        InputError: The stores have different values for the same point; nothing is added.
    """
    new: list[tuple[int, list[int]]] = []
    for number, rows in enumerate(other.all_rows()):
        failed = {position for position, *_ in rows.failures}
        places = target.find(rows.keys)
        added = []
        for position, place in enumerate(places):
            if place is None or (target.failed(place) and position not in failed):
                added.append(position)
            elif not target.failed(place) and position not in failed:
                _check_same(target, other, place, rows, position)
        new.append((number, added))
    wanted = dict(new)
    n_added = 0
    for number, rows in enumerate(other.all_rows()):
        if positions := wanted.get(number):
            function = other.functions.get(rows.function)
            if function is not None and rows.function not in target.functions:
                target.add_function(function)
            target.add(rows if len(positions) == len(rows) else rows.take(positions))
            n_added += len(positions)
    return n_added


def _check_same(target: EvaluationStore, other: EvaluationStore, place: int, rows: Rows, position: int) -> None:
    for own, (at,), _ in target.read([place]):
        if own.values[at].tobytes() != rows.values[position].tobytes() or own.form != rows.form:
            function: FunctionRecord | None = other.functions.get(rows.function)
            name = function.name if function else rows.function
            coordinate = rows.names[position]
            where = f"with {coordinate} moved by {rows.offsets[position]:+.6g}" if coordinate else "at x itself"
            raise InputError(
                f"stores {target.name!r} and {other.name!r} have different values of {name} {where}; the function was "
                "another one. Drop its rows from one of them first."
            )
