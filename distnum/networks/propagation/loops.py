"""Compiled loops for units whose change reaches the loss without passing through whole layers.

Each function chooses a loop of ``kernels.py`` for the chosen units of a block and prepares what it
reads. In all of them ``chosen`` is a mask of shape ``(n_examples, n_units)`` with a true entry, and
``t_max``, of the same shape, the largest change of each unit's output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Move
from distnum.networks.losses import SeriesLength, series_length
from distnum.networks.propagation import kernels, passes, taylor
from distnum.networks.propagation.base_point import UnitBlock
from distnum.networks.propagation.kernel_inputs import Loop, count_log_terms, padded_stack, side_by_side
from distnum.networks.propagation.kinks import Kinks

__all__ = ["direction_loop", "kinks_loop", "later_series_lengths", "taylor_loop"]

# Numbers of terms of the loss's series along a unit: few, so that few loops are compiled. This many
# further terms are computed, to see that they vanish in rounding.
_SERIES_TERMS, _TERMS_BEYOND = (3, 5, 9), 2


def direction_loop(block: UnitBlock, chosen: Mask, t_max: Array, move: Move, slope: Array | None = None) -> Loop:
    """Units whose change moves the outputs along one direction each.

    Args:
        block, chosen, t_max: See above.
        move: How a unit's output changes; it must hold for ``block.farthest``.
        slope: Slopes of the units, if all chosen ones stay on their straight lines.
    """
    at, v = block.at, block.directions
    largest = np.zeros(1, at.dtype)
    passes.largest_move(chosen, t_max, v, largest)
    symmetric = at.scheme.symmetric and slope is not None
    length = at.loss.length(float(largest[0]), symmetric)
    symmetric = symmetric and length is not None
    # A loop over all units also computes those not chosen, and their change must not be NaN.
    n_chosen = np.count_nonzero(chosen)
    may_be_dense = (slope is not None or n_chosen == chosen.size) and length is not None
    compact = not may_be_dense or 3 * n_chosen < chosen.size
    constants = [] if symmetric else move.constants(block.a if slope is None else slope)
    n_terms = 0 if length is None else length.n_terms
    arrays = side_by_side(chosen, constants, at.dtype, compact, n_more=1 + n_terms)
    examples, counts, units, data = arrays
    scales = slope if symmetric and slope is not None else np.empty((0, 0), at.dtype)
    passes.write_series(
        at.network.loss_function.name == "cross_entropy",
        block.loss_factors,
        block.loss_labels,
        v,
        scales,
        examples,
        chosen[examples],
        units if compact else units[:0],
        counts,
        data,
        len(constants),
    )
    if length is None:
        of_examples = v[examples] if len(v) > 1 else v
        more = block.loss_factors[examples], np.ascontiguousarray(of_examples)
        return Loop(kernels.outputs_kernel(move.kind), arrays, more)
    if symmetric:
        return Loop(kernels.straight_kernel(*length, compact), arrays)
    n_move_terms = count_log_terms(move, block.farthest, at.dtype)
    return Loop(kernels.bent_kernel(move.kind, *length, n_move_terms, compact), arrays)


def kinks_loop(block: UnitBlock, chosen: Mask, t_max: Array, kinks: Mapping[int, Kinks]) -> Loop:
    """Units whose change takes a few later units, the ``kinks`` of each example, off their straight lines."""
    at, move = block.at, block.activation.move
    assert move is not None  # every piecewise linear activation has one
    arrays = side_by_side(chosen, move.constants(block.a), at.dtype, compact=True, grouped=False)
    examples = arrays.examples
    of_examples = [kinks[example] for example in examples.tolist()]
    constants = [np.stack(move.constants(kinked.preactivations)) for kinked in of_examples]
    _, length = later_series_lengths(block, chosen, t_max)
    more = (
        np.ascontiguousarray(block.directions[examples]),
        np.array([len(kinked.slopes) for kinked in of_examples]),
        padded_stack(constants),
        padded_stack([kinked.slopes for kinked in of_examples]),
        padded_stack([kinked.to_units for kinked in of_examples]),
        padded_stack([kinked.to_kinks for kinked in of_examples]),
        padded_stack([kinked.to_outputs for kinked in of_examples]),
        block.loss_factors[examples],
        block.loss_labels[examples],
    )
    return Loop(kernels.kinks_kernel(str(move.kind), at.network.loss_function.name, *length), arrays, more)


def taylor_loop(block: UnitBlock, chosen: Mask, t_max: Array) -> Loop | None:
    """Units whose change of the loss has a short Taylor series; None if it has not."""
    at, move = block.at, block.activation.move
    if block.activation.taylor is None or move is None or block.farthest > move.largest:
        return None
    weights = [block.weights_into(later) for later in range(block.number + 1, at.last + 1)]
    preactivations = [block.preactivations(later) for later in block.hidden_layers_after]
    farthest = float(t_max.max())
    for n_terms in _SERIES_TERMS:
        # A short series is enough only if its coefficients fall, as with small weights: seldom worth trying.
        if farthest**n_terms > np.finfo(at.dtype).eps and n_terms < _SERIES_TERMS[-1]:
            continue
        deltas = taylor.output_series(weights, preactivations, block.activation, n_terms + _TERMS_BEYOND)
        series = taylor.loss_series(deltas, at.network.loss_function.name, block.loss_factors, block.loss_labels)
        if taylor.enough_terms(series, t_max, n_terms):
            break
    else:
        return None
    fields = [*move.constants(block.a), np.zeros_like(block.a), *series[:n_terms]]
    compact = 3 * np.count_nonzero(chosen) < chosen.size
    n_move_terms = count_log_terms(move, block.farthest, at.dtype)
    arrays = side_by_side(chosen, fields, at.dtype, compact)
    return Loop(kernels.bent_kernel(move.kind, n_terms, 0, n_move_terms, compact), arrays)


def later_series_lengths(block: UnitBlock, chosen: Mask, t_max: Array) -> tuple[float, SeriesLength]:
    """Largest shift of a pre-activation, and lengths of all series in a loop through later layers.

    The lengths are zeros where no series is short enough.
    """
    farthest, largest = block.farthest_shifts(float(np.where(chosen, t_max, 0).max()))
    of_move = series_length(farthest, block.at.dtype)
    of_loss = block.at.loss.length(largest, symmetric=False)
    # At least (5, 3), and one length for all series, so that few loops are compiled.
    return farthest, max(SeriesLength(5, 3), of_move, of_loss) if of_move and of_loss else SeriesLength(0, 0)
