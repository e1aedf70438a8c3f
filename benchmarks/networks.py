"""Networks on the digits of the package, and their exact gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.datasets.dataset import Batch
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation

__all__ = ["NetworkLoss", "backpropagation", "kinks_within", "propagated", "shrunk_digits"]

Array = NDArray[np.floating]


def shrunk_digits(n_examples: int) -> Batch:
    """Return the first digits of the training set, shrunk to 8 x 8 pixels, shape ``(n_examples, 64)``."""
    digits = load_data().train(slice(n_examples))
    inner = digits.x.reshape(-1, 28, 28)[:, 2:26, 2:26]  # the border is empty; 24 is 8 times 3
    return Batch(inner.reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).reshape(-1, 64), digits.y)


class NetworkLoss:
    """The loss of a network as a function of one flat array, which can be sent to other processes."""

    def __init__(self, network: Network, batch: Batch) -> None:
        self._network = network
        self._batch = batch

    def __call__(self, params: Array) -> float:
        return float(self._network.loss(params, self._batch))


def propagated(objective: Propagation, params: Array, batch: Batch) -> Array:
    """Return the whole gradient by propagation, on one core."""
    return whole_gradient(objective, params, batch)


def backpropagation(network: Network, params: Array, batch: Any) -> Array:
    """Return the gradient of a ReLU network with cross-entropy by backpropagation in NumPy."""
    x, y = batch
    forward = network.forward(params, x)
    e = np.exp(forward.outputs - forward.outputs.max(axis=1, keepdims=True))
    delta = e / e.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    grad = np.empty_like(params)
    for number in range(len(network.layers) - 1, -1, -1):
        layer = network.layers[number]
        rows = layer.rows(grad)
        np.matmul(forward.inputs[number].T, delta, out=rows[:-1])
        delta.sum(axis=0, out=rows[-1])
        if number:
            delta = (delta @ layer.rows(params)[:-1].T) * (forward.preactivations[number - 1] > 0)
    return grad


def kinks_within(network: Network, params: Array, batch: Batch, h: float) -> NDArray[np.bool_]:
    """Return the parameters whose step ``h`` moves a unit of any example across ReLU's kink.

    Only there may a correct difference deviate from backpropagation by more than ``h`` squared. For one
    hidden layer; shape ``(n_params,)``.
    """
    forward = network.forward(params, batch.x)
    layer = network.layers[0]
    crossing = np.zeros(params.shape, np.bool_)
    rows = crossing[layer.start : layer.stop].reshape(layer.n_rows, layer.n_out)
    distances = np.abs(forward.preactivations[0])
    for x, distance in zip(batch.x, distances, strict=True):
        rows |= h * np.append(np.abs(x), 1)[:, None] >= distance
    return crossing
