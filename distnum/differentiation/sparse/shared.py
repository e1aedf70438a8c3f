"""Evaluations that move several independent coordinates at once.

If such a point has no value, each half of its coordinates is evaluated by itself, and so on: in the end only the
coordinates that the function fails for are without a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.differentiation.rounds import Places, Rounds

__all__ = ["Moves", "Shared", "evaluate_shared"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Moves:
    """Moves of single coordinates.

    Attributes:
        coordinates: The coordinate of each move, shape ``(q,)``.
        values: What to put in its place, shape ``(q,)``.
        groups: Moves of a group and the same slot are made at one point, shape ``(q,)``.
        slots: Which of the points of a coordinate it is, shape ``(q,)``.
    """

    coordinates: Ints
    values: NDArray[np.inexact]
    groups: Ints
    slots: Ints


@dataclass(frozen=True)
class Shared:
    """Values at points that several coordinates share.

    Attributes:
        values: Value at each point, shape ``(p, m)``; NaN where there is none.
        point_of: The point of each move, shape ``(q,)``; of several points the last.
        done: Whether each point was evaluated, shape ``(p,)``.
        moves_of: The moves of each point.
    """

    values: NDArray[np.inexact]
    point_of: Ints
    done: NDArray[np.bool_]
    moves_of: list[Ints]


def evaluate_shared(rounds: Rounds, x: Array, moves: Moves, check: Callable[[], None]) -> Shared:
    """Evaluate moves, those of a group at one point; and ``x`` itself if its value is not known.

    Args:
        rounds: Evaluates.
        x: The base point, shape ``(n,)``.
        moves: The moves.
        check: Called as soon as the form of the values is known.
    """
    keys = moves.groups * (int(moves.slots.max()) + 1) + moves.slots
    by_point = np.argsort(keys, kind="stable")
    todo = np.split(by_point, np.flatnonzero(np.diff(keys[by_point])) + 1)
    point_of = np.zeros(len(keys), np.int64)
    all_values, all_done, all_moves = [], [], []
    first = 0
    while todo:
        values, done = _evaluate(rounds, x, moves, todo, check)
        all_values.append(values)
        all_done.append(done)
        all_moves += todo
        for number, some in enumerate(todo):
            point_of[some] = first + number
        first += len(todo)
        failed = done & ~np.isfinite(values).any(axis=1)
        again = [todo[number] for number in np.flatnonzero(failed).tolist() if len(todo[number]) > 1]
        todo = [] if rounds.stopped else [half for some in again for half in np.array_split(some, 2)]
    return Shared(np.concatenate(all_values), point_of, np.concatenate(all_done), all_moves)


def _evaluate(
    rounds: Rounds, x: Array, moves: Moves, points: list[Ints], check: Callable[[], None]
) -> tuple[NDArray[np.inexact], NDArray[np.bool_]]:
    """Values at points, each given by its moves, and whether they are there."""
    every = np.concatenate(points)
    starts = np.concatenate([[0], np.cumsum([len(some) for some in points])])
    places = Places.of_groups(
        x, moves.coordinates[every], moves.values[every], starts, moves.groups[[some[0] for some in points]]
    )
    n_before = 0
    if rounds.base is None:
        places, n_before = Places.joined([Places.of_base(x), places]), 1
    done = np.zeros(len(places.points), bool)
    values: NDArray[np.inexact] = np.empty((len(done), 0))
    for outcomes in rounds.evaluate(places):
        done[outcomes.numbers] = True
        if outcomes.form is None:
            continue
        check()
        if not values.size:
            values = np.full((len(done), outcomes.form.size), np.nan, outcomes.values.dtype)
        elif values.dtype != np.result_type(values, outcomes.values):
            values = values.astype(np.result_type(values, outcomes.values))
        values[outcomes.numbers] = outcomes.values
    if not values.size and rounds.n_outputs:
        values = np.full((len(done), rounds.n_outputs), np.nan)
    return values[n_before:], done[n_before:]
