"""Oracles: slow, plain, and written without the code that they check."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.networks.dense import Network

Array = NDArray[np.floating]


def naive_gradient(
    network: Network, params: Array, batch: tuple[Array, Array], points: dict[int, float], h: float
) -> Array:
    """Finite differences by whole forward passes in extended precision.

    ``points`` maps the offsets of the stencil, in units of ``h``, to their weights.
    """
    moved = params.astype(np.longdouble)
    x, y = batch
    wide = (x.astype(np.longdouble), y)
    step = np.longdouble(np.asarray(h, params.dtype))
    grad = np.zeros(params.size, np.longdouble)
    for index in range(params.size):
        original = moved[index]
        for offset, weight in points.items():
            moved[index] = original + offset * step
            grad[index] += weight * network.loss(moved, wide)
        moved[index] = original
    return (grad / step).astype(np.float64)


POINTS: dict[str, dict[int, float]] = {
    "forward": {1: 1, 0: -1},
    "backward": {-1: -1, 0: 1},
    "central": {1: 0.5, -1: -0.5},
    "central4": {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12},
}


def backpropagated_gradient(network: Network, params: Array, batch: tuple[Array, Array]) -> Array:
    """The analytic gradient, by a backward pass written out; for activations that have a derivative."""
    x, y = batch
    derivative = {
        "tanh": lambda a: 1 - np.tanh(a) ** 2,
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)) * (1 - 1 / (1 + np.exp(-a))),
        "softplus": lambda a: 1 / (1 + np.exp(-a)),
        "identity": np.ones_like,
        "relu": lambda a: (a > 0).astype(a.dtype),
        "leaky_relu:0.01": lambda a: np.where(a > 0, 1.0, 0.01),
    }[network.activation.name]
    forward = network.forward(params, x)
    outputs, n = forward.outputs, len(x)
    target = np.eye(network.n_outputs)[y] if y.ndim == 1 else y
    if network.loss_function.name == "cross_entropy":
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        delta = (e / e.sum(axis=1, keepdims=True) - target) / n
    else:
        delta = 2 * (outputs - target) / (n * network.n_outputs)
    grad = np.zeros_like(params)
    for number in range(len(network.layers) - 1, -1, -1):
        layer = network.layers[number]
        rows = layer.rows(grad)
        rows[:-1] = forward.inputs[number].T @ delta
        rows[-1] = delta.sum(axis=0)
        if number:
            delta = (delta @ layer.rows(params)[:-1].T) * derivative(forward.preactivations[number - 1])
    return grad


def relative_error(found: Array, expected: Array) -> float:
    """Euclidean distance over the length of what is expected."""
    length = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm((found.astype(np.float64) - expected).astype(np.float64))) / (length or 1.0)


def random_batch(network: Network, n: int, seed: int = 0, share_zero: float = 0.6) -> tuple[Array, Array]:
    """Examples with many zero inputs, as pictures have, and labels."""
    generator = np.random.default_rng(seed)
    x = generator.random((n, network.n_inputs))
    x[generator.random(x.shape) < share_zero] = 0
    return x, generator.integers(0, network.n_outputs, n)
