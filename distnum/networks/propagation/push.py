"""Changes that are pushed through whole layers, and changes that NumPy follows.

NumPy follows what the compiled loops cannot compute: an activation given as a NumPy function, and
a smooth activation beyond the shift for which its formula holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.propagation import kernels
from distnum.networks.propagation.base_point import UnitBlock
from distnum.networks.propagation.kernel_inputs import Loop, side_by_side
from distnum.networks.propagation.loops import later_series_lengths

__all__ = ["LossChange", "add_by_numpy", "change_along_directions", "change_through_layers", "push_loop"]

# Numbers in one temporary array, so that it stays in a core's cache.
_NUMBERS = 32_768

# Rows of every matrix product. With one shape, the bits of a row do not depend on the number of rows.
_ROWS = 64

LossChange: TypeAlias = Callable[[UnitBlock, int, NDArray[np.intp], Array], Array]
"""Change of one example's loss when the outputs of some units, one at a time, change by ``t (n_units, n_t)``.

The result has the shape of ``t``.
"""


def push_loop(block: UnitBlock, chosen: Mask, t_max: Array) -> Loop | None:
    """A compiled loop that pushes the changes of the chosen units through all later layers.

    Args:
        block: Units of a layer at some examples.
        chosen: Shape ``(n_examples, n_units)``, with a true entry.
        t_max: Largest change of each unit's output, same shape.

    Returns:
        None if only NumPy can follow them.
    """
    at, move = block.at, block.activation.move
    farthest, length = later_series_lengths(block, chosen, t_max)
    if move is None or not farthest <= move.largest:
        return None
    arrays = side_by_side(chosen, move.constants(block.a), at.dtype, compact=True, grouped=False)
    examples = arrays.examples
    constants = [
        np.stack(move.constants(block.preactivations(later)[examples]), axis=1) for later in block.hidden_layers_after
    ]
    layers = at.network.layers[block.number + 1 :]
    starts = [layer.start for layer in layers]
    starts[0] += block.units.start * layers[0].n_out
    more = (
        at.params,
        np.array(starts),
        np.array([layer.n_out for layer in layers]),
        np.concatenate(constants, axis=2),
        block.loss_factors[examples],
        block.loss_labels[examples],
    )
    return Loop(kernels.push_kernel(move.kind, at.network.loss_function.name, *length), arrays, more)


def add_by_numpy(
    block: UnitBlock, chosen: Mask, loss_change: LossChange, inputs: Array, points: Array, weights: Array, total: Array
) -> None:
    """Add the weighted changes of the loss for the chosen units.

    Args:
        block: Units of a layer at some examples.
        chosen: Shape ``(n_examples, n_units)``.
        loss_change: ``change_along_directions`` or ``change_through_layers``.
        inputs: Inputs of some rows of the layer, shape ``(n_rows, n_examples)``.
        points: Shifts for an input of one, in pairs, shape ``(n_pairs, 2)``.
        weights: Weight of each pair, shape ``(n_pairs,)``.
        total: Sums to add to, shape ``(n_rows, >= n_units)``.
    """
    for example in np.flatnonzero(chosen.any(axis=1)).tolist():
        z, units = inputs[:, example], np.flatnonzero(chosen[example])
        moved = np.flatnonzero(z)
        a = block.a[example, units, None]
        size = max(1, _NUMBERS // (2 * len(units) * block.at.network.n_outputs))
        for start in range(0, len(moved), size):
            rows = moved[start : start + size]
            for (first, second), weight in zip(points, weights, strict=True):
                shifts = np.concatenate([first * z[rows], second * z[rows]])
                changes = loss_change(block, example, units, block.activation.change(a, shifts))
                difference = changes[:, : len(rows)] - changes[:, len(rows) :]
                total[rows[:, None], units] += weight * difference.T


def change_along_directions(block: UnitBlock, example: int, units: NDArray[np.intp], t: Array) -> Array:
    """A ``LossChange`` for units that move the outputs along one direction each."""
    directions = block.directions[example if len(block.directions) > 1 else 0]
    delta = t[:, :, None] * directions[:, units].T[:, None, :]
    changes = block.at.loss.change(block.examples.start + example, delta.reshape(-1, delta.shape[2]))
    return changes.reshape(t.shape)


def change_through_layers(block: UnitBlock, example: int, units: NDArray[np.intp], t: Array) -> Array:
    """A ``LossChange`` that is computed layer by layer."""
    at, number = block.at, block.number
    example += block.examples.start
    changes = np.zeros_like(t)
    unit_of, point_of = np.nonzero(t)
    sizes = at.network.sizes
    size = max(_ROWS, _NUMBERS // max(sizes[number + 2 :]) // _ROWS * _ROWS)
    for start in range(0, len(unit_of), size):
        unit, point = unit_of[start : start + size], point_of[start : start + size]
        padded = -(-len(unit) // _ROWS) * _ROWS
        change = np.zeros((padded, sizes[number + 2]), at.dtype)
        change[: len(unit)] = t[unit, point][:, None] * block.weights_into(number + 1)[units[unit]]
        for later in range(number + 2, at.last + 1):
            a = at.preactivations[later - 1][example]
            change = at.network.activation.change(a, change)
            stacked = change.reshape(-1, _ROWS, change.shape[1])
            change = (stacked @ at.weights[later]).reshape(padded, -1)
        changes[unit, point] = at.loss.change(example, change[: len(unit)])
    return changes
