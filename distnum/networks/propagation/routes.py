"""How the changes of the units of a layer reach the loss.

For a layer's units and a block of examples this decides which units move at all, and which route
each change takes:

- *in proportion*: no later unit leaves its straight line, so the outputs move along one direction
  (``loops.direction_loop``);
- *with kinks*: a few later units leave their lines (``kinks.py``, ``loops.kinks_loop``);
- *by Taylor series*: all later layers are smooth (``taylor.py``, ``loops.taylor_loop``);
- *pushed*: through each later layer as it is (``push.py``).

Compiled loops then follow all rows of the layer; NumPy follows what they cannot compute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Move
from distnum.networks.propagation import loops, passes, push
from distnum.networks.propagation.base_point import BasePoint, UnitBlock
from distnum.networks.propagation.kernel_inputs import Loop
from distnum.networks.propagation.kinks import Kinks, LaterLayer, later_kinks

__all__ = ["UnitRoutes"]

# With more later units off their lines, pushing a change through whole layers takes no longer.
_MOST_KINKS = 32

# Classes of units, as ``passes.classify`` writes them: the output does not change, changes along a
# straight line, or otherwise.
_STILL, _STRAIGHT, _CURVED = 0, 1, 2
_LINE = Move("line", lambda slope: (slope, slope))


class UnitRoutes:
    """Routes of some units' changes to the loss, for a block of examples.

    Args:
        at: The base point.
        number: Number of the layer, counted from 0.
        units: Range of the layer's units.
        examples: Range of the batch's examples.
    """

    def __init__(self, at: BasePoint, number: int, units: slice, examples: slice) -> None:
        self._block = block = UnitBlock(at, number, units, examples)
        self._loops: list[Loop] = []
        self._by_numpy: list[tuple[Mask, push.LossChange]] = []
        slope = block.activation.slope(block.a)
        classes, t_max = _classify(block, slope)
        out_of_proportion, kinks = _out_of_proportion(block, classes, t_max)
        if out_of_proportion is not None:
            classes[out_of_proportion] = _STILL
        self._in_proportion(classes == _CURVED, t_max, block.activation.move)
        self._in_proportion(classes == _STRAIGHT, t_max, _LINE, slope)
        if out_of_proportion is not None and out_of_proportion.any():
            self._through_later_layers(out_of_proportion, t_max, kinks)

    def _in_proportion(self, chosen: Mask, t_max: Array, move: Move | None, slope: Array | None = None) -> None:
        if not chosen.any():
            return
        if move is None or self._block.farthest > move.largest:
            self._by_numpy.append((chosen, push.change_along_directions))
        else:
            self._loops.append(loops.direction_loop(self._block, chosen, t_max, move, slope))

    def _through_later_layers(self, chosen: Mask, t_max: Array, kinks: Mapping[int, Kinks]) -> None:
        few = [example for example, kinked in kinks.items() if len(kinked.slopes) <= _MOST_KINKS]
        with_kinks = np.zeros_like(chosen)
        with_kinks[few] = chosen[few]
        if with_kinks.any():
            self._loops.append(loops.kinks_loop(self._block, with_kinks, t_max, kinks))
        loop = loops.taylor_loop(self._block, chosen, t_max)
        if loop is None:
            chosen = chosen & ~with_kinks
            if not chosen.any():
                return
            loop = push.push_loop(self._block, chosen, t_max)
        if loop is None:
            self._by_numpy.append((chosen, push.change_through_layers))
        else:
            self._loops.append(loop)

    def add(self, rows: NDArray[np.int64], total: Array) -> None:
        """Add the weighted changes of the loss, summed over the examples.

        Args:
            rows: Rows of the layer.
            total: Shape ``(len(rows), n_columns(n_units))``; columns from ``n_units`` on are scratch space.
        """
        block, at = self._block, self._block.at
        pairs = at.scheme.pairs
        points = np.array([pair[:2] for pair in pairs], at.dtype) * at.h
        weights = np.array([pair[2] for pair in pairs], at.dtype)
        inputs = at.inputs[block.number]
        for kernel, (examples, *arrays), more in self._loops:
            kernel(inputs, rows, points, weights, examples + block.examples.start, *arrays, total, *more)
        for chosen, loss_change in self._by_numpy:
            push.add_by_numpy(block, chosen, loss_change, inputs[rows, block.examples], points, weights, total)


def _classify(block: UnitBlock, slope: Array) -> tuple[NDArray[np.int8], Array]:
    """Class of each unit, and the largest change of its output, both of shape ``(n_examples, n_units)``."""
    a, reach = block.a, block.reach
    classes, t_max = np.empty(a.shape, np.int8), np.empty_like(a)
    n_curved = np.zeros(1, np.int64)
    passes.classify(slope, block.activation.kink_distance(a), reach, classes, t_max, n_curved)
    if n_curved[0] == a.size:
        t_max = _farthest_change(block, a, reach)
        classes[t_max == 0] = _STILL
    elif n_curved[0]:
        curved = np.nonzero(classes == _CURVED)
        t_max[curved] = farthest = _farthest_change(block, a[curved], reach[curved[0], 0])
        classes[curved] = np.where(farthest == 0, _STILL, _CURVED)
    return classes, t_max


def _farthest_change(block: UnitBlock, a: Array, reach: Array) -> Array:
    """Largest change of the outputs at pre-activations ``a``, or a bound of it."""
    activation = block.activation
    if np.isfinite(activation.steepest) and not activation.piecewise_linear:
        return activation.steepest * np.broadcast_to(reach, a.shape)
    if not activation.monotone:
        return np.full_like(a, np.inf)
    return np.maximum(np.abs(activation.change(a, reach)), np.abs(activation.change(a, -reach)))


def _out_of_proportion(
    block: UnitBlock, classes: NDArray[np.int8], t_max: Array
) -> tuple[Mask | None, dict[int, Kinks]]:
    """Moving units whose change does not reach the outputs in proportion, and the later units that bend.

    The mask, of shape ``(n_examples, n_units)``, is None if there are no such units.
    """
    at = block.at
    if block.number >= at.last - 1:
        return None, {}
    if not block.activation.piecewise_linear:
        return classes != _STILL, {}
    layers = [
        LaterLayer(block.weights_into(later), block.weight_sizes_into(later), block.preactivations(later))
        for later in block.hidden_layers_after
    ]
    straight, kinks = later_kinks(layers, at.weights[at.last], block.activation, t_max)
    return None if straight is None else (classes != _STILL) & ~straight, kinks
