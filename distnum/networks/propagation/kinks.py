"""Which later units leave their straight lines when a unit moves, and how all of them are linked.

In a network of straight pieces a change that meets no kink reaches the outputs in proportion.
Where it does meet some, it is that proportional change and, for each later unit over whose kink
it goes, the *bend*: what the unit's output moves by beyond its straight line. A bend goes on in
proportion itself, and adds to the shifts of the units after it that bend too. So a few numbers
for each bending unit say what otherwise whole layers would have to be computed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Activation

__all__ = ["Kinks", "LaterLayer", "later_kinks"]

# A hair less than the distance to a kink, for the rounding of the products.
_HAIR = 1e-5


@dataclass(frozen=True)
class LaterLayer:
    """A hidden layer after the units that move, at some examples.

    Attributes:
        weights: into it, from the layer before (from the units that move: from those alone).
        sizes: ``|weights|``.
        preactivations: shape ``(n_examples, n_units)``.
    """

    weights: Array
    sizes: Array
    preactivations: Array


@dataclass(frozen=True)
class Kinks:
    """The later units of one example that some unit's move may take over a kink, layer by layer.

    Attributes:
        preactivations, slopes: of theirs, shape ``(n_bends,)``.
        to_units: how their pre-activations answer a change of the output of each unit that
            moves, along straight lines, shape ``(n_bends, n_units)``.
        to_bends: how they answer a bend of each other, ``(n_bends, n_bends)``: of row by column.
        to_outputs: how the outputs answer their bends, ``(n_outputs, n_bends)``.
    """

    preactivations: Array
    slopes: Array
    to_units: Array
    to_kinks: Array
    to_outputs: Array


@dataclass(frozen=True)
class _InLayer:
    """Those of one layer; ``largest`` are bounds of their bends, ``(n_units, n_bends)``."""

    layer: int
    units: NDArray[np.intp]
    to_units: Array
    to_kinks: list[Array]
    largest: Array


def later_kinks(
    layers: Sequence[LaterLayer], last_weights: Array, activation: Activation, t_max: Array
) -> tuple[Mask | None, dict[int, Kinks]]:
    """Whether all later units stay on their straight lines when one unit moves, and which may not.

    A bound that holds for all units that move at once leaves few later units in question;
    those are looked at one by one.

    Args:
        layers: the hidden layers after that of the units.
        last_weights: into the outputs.
        activation: of all of them, with straight pieces.
        t_max: the farthest that each unit's output moves, ``(n_examples, n_units)``.

    Returns:
        for which units all stay, ``(n_examples, n_units)``, None if for all; and, by example, the
        later units that may bend for one of the others. An activation that jumps has no such bends: its
        examples are left out.
    """
    straight = np.ones(t_max.shape, np.bool_)
    finite = np.where(np.isfinite(t_max), t_max, np.finfo(t_max.dtype).max ** 0.5)
    follow = bool(np.isfinite(activation.steepest))
    slopes: list[Array] = []
    found: dict[int, list[_InLayer]] = {}
    bound = finite.max(axis=1, keepdims=True) * layers[0].sizes.max(axis=0)
    for number, layer in enumerate(layers):
        a = layer.preactivations
        distance = activation.kink_distance(a) * a.dtype.type(1 - _HAIR)
        slopes.append(activation.slope(a))
        asked = bound >= distance
        for example in np.flatnonzero(asked.any(axis=1)).tolist():
            near = np.flatnonzero(asked[example])
            before = found.get(example, [])
            to_units, to_kinks = _responses(layers[: number + 1], near, [s[example] for s in slopes], before)
            shift = finite[example][:, None] * np.abs(to_units)
            for one, response in zip(before, to_kinks, strict=True):
                shift += one.largest @ np.abs(response)
            leaves = shift >= distance[example][near]
            straight[example] &= ~leaves.any(axis=1)
            some = leaves.any(axis=0)
            if follow and some.any():
                # Beyond its line a unit moves no more than its shift at the steepest slope.
                largest = activation.steepest * np.where(leaves, shift, 0)[:, some]
                kept = _InLayer(number, near[some], to_units[:, some], [one[:, some] for one in to_kinks], largest)
                found.setdefault(example, []).append(kept)
        if number < len(layers) - 1:
            steepness = np.abs(slopes[-1])
            if follow:
                steepness = np.where(asked, a.dtype.type(activation.steepest), steepness)
            bound = (bound * steepness) @ layers[number + 1].sizes
    if straight.all():
        return None, {}
    return straight, {
        example: _joined(layers, last_weights, [s[example] for s in slopes], example, of_layers)
        for example, of_layers in found.items()
    }


def _responses(
    layers: Sequence[LaterLayer], near: NDArray[np.intp], slopes: Sequence[Array], before: Sequence[_InLayer]
) -> tuple[Array, list[Array]]:
    """How some units of the last of the layers answer, along straight lines.

    Returns:
        for the units that move ``(n_units, n_near)``, and for each of those that bend before.
    """
    response = layers[-1].weights[:, near]
    to_kinks: dict[int, Array] = {}
    for between in range(len(layers) - 2, -1, -1):
        to_kinks |= {one.layer: response[one.units] for one in before if one.layer == between}
        response = layers[between].weights @ (slopes[between][:, None] * response)
    return response, [to_kinks[one.layer] for one in before]


def _joined(
    layers: Sequence[LaterLayer],
    last_weights: Array,
    slopes: Sequence[Array],
    example: int,
    of_layers: Sequence[_InLayer],
) -> Kinks:
    """The units of several layers side by side."""
    sizes = [len(one.units) for one in of_layers]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    to_kinks = np.zeros((starts[-1], starts[-1]), last_weights.dtype)
    to_outputs = []
    for number, one in enumerate(of_layers):
        here = slice(starts[number], starts[number + 1])
        for earlier, response in enumerate(one.to_kinks):
            to_kinks[here, starts[earlier] : starts[earlier + 1]] = response.T
        following = [*(layer.weights for layer in layers[one.layer + 1 :]), last_weights]
        response = following[0][one.units]
        for weights, slope in zip(following[1:], slopes[one.layer + 1 :], strict=True):
            response = (response * slope) @ weights
        to_outputs.append(response.T)
    return Kinks(
        preactivations=np.concatenate([layers[one.layer].preactivations[example, one.units] for one in of_layers]),
        slopes=np.concatenate([slopes[one.layer][one.units] for one in of_layers]),
        to_units=np.concatenate([one.to_units.T for one in of_layers]),
        to_kinks=to_kinks,
        to_outputs=np.concatenate(to_outputs, axis=1),
    )
