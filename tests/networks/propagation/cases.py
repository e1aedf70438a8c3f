"""Networks and parameters that the tests of propagation share."""

from __future__ import annotations

import numpy as np
import pytest

from distnum.networks.dense import Network

EXTENDED = np.finfo(np.longdouble).eps < 1e-18
needs_extended = pytest.mark.skipif(not EXTENDED, reason="longdouble is no wider than double on this machine")

ACTIVATIONS = ["relu", "leaky_relu:0.2", "tanh", "sigmoid", "softplus", "identity", "step", "sign", "quantize:4"]
LOSSES = ["cross_entropy", "mean_squared_error"]
SHAPES = [(9, 4), (9, 6, 4), (9, 6, 5, 4), (9, 5, 5, 4, 3)]


def network_params(network: Network, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    """Random parameters. Biases too: at zero, `step` and `sign` would stand exactly on their jumps."""
    return (0.7 * np.random.default_rng(seed).standard_normal(network.n_params)).astype(dtype)
