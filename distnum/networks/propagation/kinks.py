"""Which later units leave their straight lines when a unit's output changes, and how they are linked.

In a piecewise linear network a change that meets no kink reaches the outputs in proportion. If it
takes some later units over a kink, the change of the outputs is the proportional change plus, for
each such unit, the effect of its *bend*: the change of the unit's output minus the change along its
line. A bend travels on in proportion, and shifts later units that may bend too. So a few numbers
for each bending unit replace a pass through whole layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Activation

__all__ = ["Kinks", "LaterLayer", "later_kinks"]

# Distances to kinks are shortened by this share, to allow for the rounding of the products.
_MARGIN = 1e-5


@dataclass(frozen=True)
class LaterLayer:
    """A hidden layer after the units that move, at some examples.

    Attributes:
        weights: Weights into the layer; into the first one only those from the units that move.
        sizes: Absolute values of ``weights``.
        preactivations: Shape ``(n_examples, n_units)``.
    """

    weights: Array
    sizes: Array
    preactivations: Array


@dataclass(frozen=True)
class Kinks:
    """The later units of one example that may leave their straight lines, layer by layer.

    Attributes:
        preactivations, slopes: Of these units, shape ``(n_kinks,)``.
        to_units: Derivative of their pre-activations along the output of each unit that moves, with all
            units on their lines, shape ``(n_kinks, n_units)``.
        to_kinks: Derivative of their pre-activations (rows) along each other's bends (columns), shape
            ``(n_kinks, n_kinks)``.
        to_outputs: Derivative of the outputs along their bends, shape ``(n_outputs, n_kinks)``.
    """

    preactivations: Array
    slopes: Array
    to_units: Array
    to_kinks: Array
    to_outputs: Array


@dataclass(frozen=True)
class _LayerKinks:
    """The units of one layer that may bend for one example.

    Attributes:
        layer: Index of the layer in the list of later layers.
        units: Units of the layer, shape ``(n_kinks,)``.
        to_units: Transposed ``Kinks.to_units``, shape ``(n_units, n_kinks)``.
        to_kinks: For each earlier layer with bends, shape ``(n_earlier_kinks, n_kinks)``.
        largest: Bound of the bend of each unit for each unit that moves, shape ``(n_units, n_kinks)``.
    """

    layer: int
    units: NDArray[np.intp]
    to_units: Array
    to_kinks: list[Array]
    largest: Array


def later_kinks(
    layers: Sequence[LaterLayer], last_weights: Array, activation: Activation, t_max: Array
) -> tuple[Mask | None, dict[int, Kinks]]:
    """Find for which units all later units stay on their straight lines, and which later units may not.

    A bound over all moving units at once leaves few later units to look at; those are tested one by one.

    Args:
        layers: The hidden layers after that of the units.
        last_weights: Weights into the outputs.
        activation: The piecewise linear activation of all layers.
        t_max: Largest change of each unit's output, shape ``(n_examples, n_units)``.

    Returns:
        The units for which all later units stay, shape ``(n_examples, n_units)``, or None if that is all
        units; and, by example, the later units that may bend for one of the others. The dictionary is
        empty for an activation that jumps, whose bends have no bound.
    """
    straight = np.ones(t_max.shape, np.bool_)
    finite = np.where(np.isfinite(t_max), t_max, np.finfo(t_max.dtype).max ** 0.5)
    follow = bool(np.isfinite(activation.steepest))
    slopes: list[Array] = []
    by_example: dict[int, list[_LayerKinks]] = {}
    bound = finite.max(axis=1, keepdims=True) * layers[0].sizes.max(axis=0)
    for number, layer in enumerate(layers):
        a = layer.preactivations
        distance = activation.kink_distance(a) * a.dtype.type(1 - _MARGIN)
        slopes.append(activation.slope(a))
        in_question = bound >= distance
        for example in np.flatnonzero(in_question.any(axis=1)).tolist():
            near = np.flatnonzero(in_question[example])
            before = by_example.get(example, [])
            to_units, to_kinks = _responses(layers[: number + 1], near, [s[example] for s in slopes], before)
            shift = finite[example][:, None] * np.abs(to_units)
            for earlier, response in zip(before, to_kinks, strict=True):
                shift += earlier.largest @ np.abs(response)
            leaves = shift >= distance[example][near]
            straight[example] &= ~leaves.any(axis=1)
            some = leaves.any(axis=0)
            if follow and some.any():
                # A unit's bend is at most its shift times the steepest slope.
                largest = activation.steepest * np.where(leaves, shift, 0)[:, some]
                to_some = [response[:, some] for response in to_kinks]
                kinked = _LayerKinks(number, near[some], to_units[:, some], to_some, largest)
                by_example.setdefault(example, []).append(kinked)
        if number < len(layers) - 1:
            steepness = np.abs(slopes[-1])
            if follow:
                steepness = np.where(in_question, a.dtype.type(activation.steepest), steepness)
            bound = (bound * steepness) @ layers[number + 1].sizes
    if straight.all():
        return None, {}
    return straight, {
        example: _joined(layers, last_weights, [s[example] for s in slopes], example, kinked)
        for example, kinked in by_example.items()
    }


def _responses(
    layers: Sequence[LaterLayer], near: NDArray[np.intp], slopes: Sequence[Array], before: Sequence[_LayerKinks]
) -> tuple[Array, list[Array]]:
    """Derivatives of the pre-activations of the units ``near`` of the last layer, with all units on their lines.

    Returns:
        Along the output of each unit that moves, shape ``(n_units, n_near)``; and along the bends of
        each of the layers ``before``, shape ``(n_kinks, n_near)``.
    """
    response = layers[-1].weights[:, near]
    to_kinks: dict[int, Array] = {}
    for between in range(len(layers) - 2, -1, -1):
        to_kinks |= {kinked.layer: response[kinked.units] for kinked in before if kinked.layer == between}
        response = layers[between].weights @ (slopes[between][:, None] * response)
    return response, [to_kinks[kinked.layer] for kinked in before]


def _joined(
    layers: Sequence[LaterLayer],
    last_weights: Array,
    slopes: Sequence[Array],
    example: int,
    by_layer: Sequence[_LayerKinks],
) -> Kinks:
    """The bending units of all layers of one example, side by side."""
    starts = np.cumsum([0, *(len(kinked.units) for kinked in by_layer)])
    to_kinks = np.zeros((starts[-1], starts[-1]), last_weights.dtype)
    to_outputs = []
    for number, kinked in enumerate(by_layer):
        rows = slice(starts[number], starts[number + 1])
        for earlier, response in enumerate(kinked.to_kinks):
            to_kinks[rows, starts[earlier] : starts[earlier + 1]] = response.T
        following = [*(layer.weights for layer in layers[kinked.layer + 1 :]), last_weights]
        response = following[0][kinked.units]
        for weights, slope in zip(following[1:], slopes[kinked.layer + 1 :], strict=True):
            response = (response * slope) @ weights
        to_outputs.append(response.T)
    return Kinks(
        preactivations=np.concatenate([layers[k.layer].preactivations[example, k.units] for k in by_layer]),
        slopes=np.concatenate([slopes[k.layer][k.units] for k in by_layer]),
        to_units=np.concatenate([k.to_units.T for k in by_layer]),
        to_kinks=to_kinks,
        to_outputs=np.concatenate(to_outputs, axis=1),
    )
