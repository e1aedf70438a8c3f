"""A network at some parameters and a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.differentiation.schemes import Scheme
from distnum.networks.activations import Activation, get_activation
from distnum.networks.dense import Network
from distnum.networks.losses import LossPoint

__all__ = ["BasePoint"]


# Numbers kept for the units of one block of examples: about half of them are used at once by the
# loops over rows, and these stay in a core's second-level cache.
_BLOCK_NUMBERS = 400_000
_OUTPUT = get_activation("identity")


@dataclass(frozen=True)
class BasePoint:
    """A network at some parameters and a batch: what following a change through it takes.

    Attributes:
        network, scheme, h: what is differenced, and how; ``h`` in the dtype of the parameters.
        params: all of them, flat.
        inputs: of the layers, with ones for the bias, shape ``(n_in + 1, n_examples)``.
        preactivations: of the layers, shape ``(n_examples, n_out)``; the last are the outputs.
        farthest_inputs: the largest input of each example, by size, of the layers, ``(n_examples,)``.
        loss: the loss at the outputs.
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
        return len(self.inputs) - 1

    @property
    def dtype(self) -> np.dtype:
        return self.params.dtype

    @cached_property
    def weights(self) -> list[Array]:
        """Of the layers, without the biases."""
        return [layer.rows(self.params)[:-1] for layer in self.network.layers]

    @cached_property
    def weight_sizes(self) -> list[Array]:
        """Their absolute values; the first layer's, which nobody asks for, are left out."""
        return [weights[:0] if number == 0 else np.abs(weights) for number, weights in enumerate(self.weights)]

    def activation(self, number: int) -> Activation:
        """After a layer; the last one's outputs are taken as they are."""
        return _OUTPUT if number == self.last else self.network.activation

    def blocks(self, number: int, n_units: int) -> Iterator[slice]:
        """Ranges of examples for which so many units of a layer fit into the memory and the cache."""
        per_example = 12 * n_units
        if number < self.last - 1 and self.network.activation.taylor is not None:
            per_example += 4 * n_units * max(self.network.sizes[number + 2 :])
        elif number < self.last - 1:
            per_example += max(self.network.sizes[number + 1 :]) * self.network.n_outputs // 4
        size = max(1, _BLOCK_NUMBERS // per_example)
        n_examples = self.inputs[0].shape[1]
        for start in range(0, n_examples, size):
            yield slice(start, min(start + size, n_examples))
