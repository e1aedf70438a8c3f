"""Arrays laid out as the compiled loops read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Move
from distnum.networks.losses import series_length

__all__ = ["count_log_terms", "n_columns", "padded_stack", "side_by_side"]


# Units are taken in groups of so many, which fill the vector registers.
_GROUP = 8


def n_columns(n_units: int) -> int:
    """Columns of a sum over the examples: one for each unit, at least one for fillers, whole groups."""
    return -(-(n_units + 1) // _GROUP) * _GROUP


def padded_stack(arrays: Sequence[Array]) -> Array:
    """Arrays of unequal shapes one above the other, filled up with zeros."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for to, array in zip(padded, arrays, strict=True):
        to[tuple(map(slice, array.shape))] = array
    return padded


def count_log_terms(move: Move, farthest: float, dtype: np.dtype) -> int:
    """Terms of the logarithm in a unit's move; none where there is no logarithm, or too long a way."""
    length = series_length(farthest, dtype) if move.kind == "softplus" else None
    return 0 if length is None else length.n_log_terms


def side_by_side(
    chosen: Mask, fields: Sequence[Array], dtype: np.dtype, compact: bool, n_more: int = 0, grouped: bool = True
) -> tuple[Any, Any, Any, Any]:
    """Chosen units of each example and what belongs to them, laid out for a compiled loop.

    Args:
        chosen: which units, ``(n_examples, n_units)``.
        fields: of all units, ``(n_examples, n_units)`` each.
        compact: whether to leave out the units that are not chosen.
        n_more: how many fields to leave room for.
        grouped: whether to fill up with fillers to whole groups.

    Returns:
        ``examples (n_examples,)`` that have chosen units, ``counts (n_examples,)``, ``units
        (n_examples, width)`` and ``data (n_examples, n_fields, width)``. What fills up the
        groups is zero and moves nothing; where the units are not compact that goes for those
        not chosen too.
    """
    from distnum.networks.propagation import passes

    examples = np.flatnonzero(chosen.any(axis=1))
    if len(examples) < len(chosen):
        chosen = chosen[examples]
    n_examples, n_units = chosen.shape
    width = n_columns(n_units)
    if compact:
        counts = np.empty(n_examples, np.int64)
        units = np.empty((n_examples, width), np.int32)
        passes.list_units(chosen, units, counts)
        width = -(-int(counts.max()) // _GROUP) * _GROUP
        units = np.ascontiguousarray(units[:, :width])
    data = np.zeros((n_examples, len(fields) + n_more, width), dtype)
    for number, field in enumerate(fields):
        if compact:
            passes.take_units(field, examples, units, counts, data[:, number])
        else:
            some = field if n_examples == len(field) else field[examples]
            np.multiply(some, chosen, out=data[:, number, :n_units])
    if not compact:
        return examples, np.full(n_examples, width), np.zeros((n_examples, width), np.int32), data
    return examples, -(-counts // _GROUP) * _GROUP if grouped else counts, units, data
