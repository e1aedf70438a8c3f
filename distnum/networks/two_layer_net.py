"""The network of the article, with the article's names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.machine import single_threaded_blas
from distnum.differentiation.black_box import BlackBox
from distnum.differentiation.objective import whole_gradient
from distnum.evaluation.forms import Form
from distnum.networks.dense import Network
from distnum.networks.losses import CrossEntropy
from distnum.networks.propagation.objective import Propagation

__all__ = ["TwoLayerNet"]


class TwoLayerNet:
    """A network with one hidden layer of ReLU units and softmax cross-entropy.

    The methods are the article's. In all of them ``x`` has shape ``(n, input_size)``, and ``t`` holds labels
    ``(n,)`` or one-hot rows ``(n, output_size)``.

    Args:
        input_size, hidden_size, output_size: Numbers of inputs, hidden units and outputs.
        init_std: Standard deviation of the initial weights; initial biases are zero.
        seed: Seed of the initial weights.

    Attributes:
        params: ``W1 (input_size, hidden_size)``, ``b1``, ``W2`` and ``b2``, float64. They may be changed in
            place or replaced.

    >>> network = TwoLayerNet(4, 3, 2)
    >>> x, t = np.ones((1, 4)), np.array([1])
    >>> sorted(network.numerical_gradient(x, t))
    ['W1', 'W2', 'b1', 'b2']
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, init_std: float = 0.01, seed: int = 0
    ) -> None:
        self._network = Network((input_size, hidden_size, output_size))
        flat = self._network.initial_params(seed, init_std=init_std)
        self.params: dict[str, Array] = {name: view.copy() for name, view in self._network.unpack(flat).items()}

    def predict(self, x: Array) -> Array:
        """Probability of every class, shape ``(n, output_size)``."""
        return CrossEntropy.probabilities(self._network.outputs(self._flat(), self._inputs(x)))

    def loss(self, x: Array, t: NDArray[np.generic]) -> float:
        """Mean cross-entropy."""
        return float(self._network.loss(self._flat(), self._batch(x, t)))

    def accuracy(self, x: Array, t: NDArray[np.generic]) -> float:
        """Share of examples whose most probable class is correct."""
        return self._network.accuracy(self._flat(), *self._batch(x, t))

    def numerical_gradient(
        self, x: Array, t: NDArray[np.generic], h: float = 1e-4, method: str = "propagate"
    ) -> dict[str, Array]:
        """Central differences of the loss for every parameter.

        Args:
            x, t: A batch.
            h: The step.
            method: ``"propagate"`` follows the change of each parameter through the network; ``"naive"``
                evaluates the loss twice for each parameter, as the article does.

        Returns:
            Arrays with the names and shapes of ``params``.

        Raises:
            InputError: If ``x`` or ``t`` does not fit the network, or ``method`` is unknown.
        """
        params, batch = self._flat(), self._batch(x, t)
        n_params = self._network.n_params
        objective: Propagation | BlackBox
        if method == "propagate":
            objective = Propagation(self._network, "central", h)
        elif method == "naive":
            objective = BlackBox(self._network.loss, Form.of_array((n_params,)), n_params, "central", h)
        else:
            raise InputError(f"method is {method!r}; it must be one of propagate, naive.")
        with single_threaded_blas():
            return self._network.unpack(whole_gradient(objective, params, batch))

    def _flat(self) -> Array:
        return self._network.pack(self.params).astype(np.float64, copy=False)

    def _inputs(self, x: Array) -> Array:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self._network.n_inputs:
            raise InputError(f"x has shape {x.shape}; it must be (n, {self._network.n_inputs}).")
        if not len(x) or not np.isfinite(x).all():
            raise InputError("x is empty or holds a number that is not finite; it must have a row, and all be finite.")
        return x

    def _batch(self, x: Array, t: NDArray[np.generic]) -> tuple[Array, NDArray[np.generic]]:
        x, t = self._inputs(x), np.asarray(t)
        n_classes = self._network.n_outputs
        if t.shape not in ((len(x),), (len(x), n_classes)):
            raise InputError(f"t has shape {t.shape}; it must be ({len(x)},) labels or ({len(x)}, {n_classes}) rows.")
        if t.ndim == 1 and (t.dtype.kind not in "ui" or t.min() < 0 or t.max() >= n_classes):
            raise InputError(
                f"t holds a value that is not a label; labels must be whole numbers from 0 to {n_classes - 1}."
            )
        return x, t
