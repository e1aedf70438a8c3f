"""Arrays in the layout that the compiled loops read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Move
from distnum.networks.losses import series_length
from distnum.networks.propagation import passes
from distnum.networks.propagation.compiled import Kernel

__all__ = ["Loop", "UnitArrays", "count_log_terms", "n_columns", "padded_stack", "side_by_side"]

# Units are padded to multiples of 8, which fill the vector registers.
_GROUP = 8


class UnitArrays(NamedTuple):
    """Chosen units of some examples and their numbers, side by side.

    Attributes:
        examples: Examples of the block that have chosen units, shape ``(n_examples,)``.
        counts: Number of entries of each example, padding included, shape ``(n_examples,)``.
        units: Unit of each entry, shape ``(n_examples, width)``; padding has the number ``n_units``.
        data: Numbers of each entry, shape ``(n_examples, n_fields, width)``; zeros for padding.
    """

    examples: NDArray[np.int64]
    counts: NDArray[np.int64]
    units: NDArray[np.int32]
    data: Array


class Loop(NamedTuple):
    """A compiled loop over the rows of a layer, and what it reads.

    Attributes:
        kernel: A loop of ``kernels.py``.
        arrays: The units that it follows.
        more: Its arguments after ``total``.
    """

    kernel: Kernel
    arrays: UnitArrays
    more: tuple[Any, ...] = ()


def n_columns(n_units: int) -> int:
    """Columns of a sum over examples: one for each unit and at least one for padding, in whole groups."""
    return -(-(n_units + 1) // _GROUP) * _GROUP


def padded_stack(arrays: Sequence[Array]) -> Array:
    """Stack arrays of unequal shapes along a new first axis, padded with zeros."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for target, array in zip(padded, arrays, strict=True):
        target[tuple(map(slice, array.shape))] = array
    return padded


def count_log_terms(move: Move, farthest: float, dtype: np.dtype) -> int:
    """Terms of the logarithm's series in a unit's change for shifts up to ``farthest``.

    0 if its formula has no logarithm, or if no series is short enough.
    """
    length = series_length(farthest, dtype) if move.kind == "softplus" else None
    return 0 if length is None else length.n_log_terms


def side_by_side(
    chosen: Mask, fields: Sequence[Array], dtype: np.dtype, compact: bool, n_more: int = 0, grouped: bool = True
) -> UnitArrays:
    """Put chosen units of each example and their numbers side by side for a compiled loop.

    Args:
        chosen: The units to take, shape ``(n_examples, n_units)``.
        fields: Numbers of all units, ``(n_examples, n_units)`` each.
        dtype: Of the result.
        compact: Whether to leave out the units that are not chosen. Otherwise their numbers are zeros.
        n_more: Number of empty fields to add after ``fields``.
        grouped: Whether to pad the units of each example to whole groups.
    """
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
            passes.take_units(field, examples, units, counts, data, number)
        else:
            of_examples = field if n_examples == len(field) else field[examples]
            np.multiply(of_examples, chosen, out=data[:, number, :n_units])
    if not compact:
        counts, units = np.full(n_examples, width), np.zeros((n_examples, width), np.int32)
    elif grouped:
        counts = -(-counts // _GROUP) * _GROUP
    return UnitArrays(examples, counts, units, data)
