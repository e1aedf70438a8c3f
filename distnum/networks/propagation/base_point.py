"""A network at some parameters and a batch, and some of its units at some of the examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.differentiation.stencils.schemes import Scheme
from distnum.networks.activations import Activation, get_activation
from distnum.networks.dense import Network
from distnum.networks.losses import LossPoint

__all__ = ["BasePoint", "UnitBlock"]

# Numbers prepared for the units of one block of examples. The loops over rows use about half of
# them at once, and those stay in a core's second-level cache.
_BLOCK_NUMBERS = 400_000
_OUTPUT = get_activation("identity")


@dataclass(frozen=True)
class BasePoint:
    """A network at some parameters and a batch, after one forward pass.

    Attributes:
        network: The network.
        scheme: The finite-difference scheme.
        h: The step, in the dtype of the parameters.
        params: All parameters, shape ``(n_params,)``.
        inputs: For each layer its inputs and a row of ones for the bias, shape ``(n_in + 1, n_examples)``.
        preactivations: For each layer, shape ``(n_examples, n_out)``; the last are the outputs.
        farthest_inputs: For each layer the largest absolute input of each example, shape ``(n_examples,)``.
        loss: The loss at the outputs.
    """

    network: Network
    scheme: Scheme
    h: Any
    params: Array
    inputs: list[Array]
    preactivations: list[Array]
    farthest_inputs: list[Array]
    loss: LossPoint

    @property
    def last(self) -> int:
        """Number of the last layer, counted from 0."""
        return len(self.inputs) - 1

    @property
    def dtype(self) -> np.dtype:
        return self.params.dtype

    @cached_property
    def weights(self) -> list[Array]:
        """For each layer the weights without the biases, shape ``(n_in, n_out)``."""
        return [layer.rows(self.params)[:-1] for layer in self.network.layers]

    @cached_property
    def weight_sizes(self) -> list[Array]:
        """Absolute values of ``weights``; left empty for the first layer, where nothing needs them."""
        return [weights[:0] if number == 0 else np.abs(weights) for number, weights in enumerate(self.weights)]

    def activation(self, number: int) -> Activation:
        """Activation after a layer; the identity after the last one."""
        return _OUTPUT if number == self.last else self.network.activation

    def blocks(self, number: int, n_units: int) -> Iterator[slice]:
        """Ranges of examples for which ``n_units`` units of a layer fit into the cache."""
        per_example = 12 * n_units
        if number < self.last - 1 and self.network.activation.taylor is not None:
            per_example += 4 * n_units * max(self.network.sizes[number + 2 :])
        elif number < self.last - 1:
            per_example += max(self.network.sizes[number + 1 :]) * self.network.n_outputs // 4
        size = max(1, _BLOCK_NUMBERS // per_example)
        n_examples = self.inputs[0].shape[1]
        for start in range(0, n_examples, size):
            yield slice(start, min(start + size, n_examples))


class UnitBlock:
    """Some units of one layer at a block of examples.

    Args:
        at: The base point.
        number: Number of the layer, counted from 0.
        units: Range of the layer's units.
        examples: Range of the batch's examples.

    Attributes:
        activation: Activation after the layer.
        a: Pre-activations of the units, shape ``(n_examples, n_units)``.
        reach: Largest shift of a pre-activation of each example, shape ``(n_examples, 1)``.
        farthest: Largest shift of a pre-activation of any example.
    """

    def __init__(self, at: BasePoint, number: int, units: slice, examples: slice) -> None:
        self.at, self.number, self.units, self.examples = at, number, units, examples
        self.activation = at.activation(number)
        self.a = np.ascontiguousarray(at.preactivations[number][examples, units])
        self.reach = at.scheme.reach * at.h * at.farthest_inputs[number][examples][:, None]
        self.farthest = float(self.reach.max())
        self._directions: Array | None = None

    @property
    def hidden_layers_after(self) -> range:
        """Numbers of the hidden layers after the units' layer."""
        return range(self.number + 1, self.at.last)

    def weights_into(self, number: int) -> Array:
        """Weights of a later layer; for the next layer only the rows of these units."""
        weights = self.at.weights[number]
        return weights[self.units] if number == self.number + 1 else weights

    def weight_sizes_into(self, number: int) -> Array:
        """Absolute values of ``weights_into``."""
        sizes = self.at.weight_sizes[number]
        return sizes[self.units] if number == self.number + 1 else sizes

    def preactivations(self, number: int) -> Array:
        """Pre-activations of all units of a layer at these examples."""
        return self.at.preactivations[number][self.examples]

    @property
    def loss_factors(self) -> Array:
        """``LossPoint.factors`` of these examples."""
        return self.at.loss.factors[self.examples]

    @property
    def loss_labels(self) -> NDArray[np.intp]:
        """``LossPoint.labels`` of these examples."""
        return self.at.loss.labels[self.examples]

    @property
    def directions(self) -> Array:
        """Derivative of the outputs along each unit's output, while no later unit leaves its straight line.

        Shape ``(n_examples, n_outputs, n_units)``, with ``n_examples`` 1 where it is the same for all examples.
        """
        # Not a cached_property: before Python 3.12 its lock is shared by all instances, so threads would wait.
        if self._directions is None:
            self._directions = self._find_directions()
        return self._directions

    def _find_directions(self) -> Array:
        at = self.at
        if self.number == at.last:
            return np.ascontiguousarray(np.eye(at.network.n_outputs, dtype=at.dtype)[None, :, self.units])
        directions = np.ascontiguousarray(self.weights_into(at.last).T)[None]
        for later in reversed(self.hidden_layers_after):
            slope = at.network.activation.slope(self.preactivations(later))
            directions = slope[:, None] * directions
            n_examples, n_outputs, n_units = directions.shape
            # One product for all examples and outputs.
            product = directions.reshape(-1, n_units) @ self.weights_into(later).T
            directions = product.reshape(n_examples, n_outputs, -1)
        return directions

    def farthest_shifts(self, t_max: float) -> tuple[float, float]:
        """Bounds of the shifts when one unit's output changes by at most ``t_max``.

        Returns:
            The largest shift of a pre-activation of this layer or a later hidden one, and the largest
            change of an output. Both are infinite for an activation that jumps.
        """
        at, steepest = self.at, self.activation.steepest
        if not np.isfinite(steepest):
            return np.inf, np.inf
        bound = t_max * self.weight_sizes_into(self.number + 1).max(axis=0)
        farthest = self.farthest
        for later in range(self.number + 2, at.last + 1):
            farthest = max(farthest, float(bound.max()))
            bound = (steepest * bound) @ at.weight_sizes[later]
        return farthest, float(bound.max())
