"""The network of the article, under its own names, for its readers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.machine import single_threaded_blas
from distnum.differentiation.black_box import BlackBox
from distnum.differentiation.parameters import ParamsLayout
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.work import whole_gradient

__all__ = ["TwoLayerNet"]


class TwoLayerNet:
    """A network with one hidden layer of ReLU units and softmax cross-entropy.

    The methods are the article's: ``x`` has shape ``(n, input_size)``; ``t`` is labels
    ``(n,)`` or one-hot rows ``(n, output_size)``.

    Args:
        input_size, hidden_size, output_size: units of the layers.
        init_std: standard deviation of the weights; the biases begin at zero.
        seed: of the weights.

    Attributes:
        params: ``W1`` ``(input_size, hidden_size)``, ``b1``, ``W2``, ``b2``; float64. They
            may be changed in place or replaced.

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
        """The probability of every class, shape ``(n, output_size)``."""
        outputs = self._network.outputs(self._flat(), self._inputs(x))
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def loss(self, x: Array, t: NDArray[np.generic]) -> float:
        """The mean cross-entropy."""
        return float(self._network.loss(self._flat(), self._batch(x, t)))

    def accuracy(self, x: Array, t: NDArray[np.generic]) -> float:
        """The share of examples whose most probable class is right."""
        return self._network.accuracy(self._flat(), *self._batch(x, t))

    def numerical_gradient(
        self, x: Array, t: NDArray[np.generic], h: float = 1e-4, method: str = "propagate"
    ) -> dict[str, Array]:
        """The central differences of the loss along every parameter.

        Args:
            x, t: a batch.
            h: the step.
            method: ``"propagate"`` follows each parameter's change through the network;
                ``"naive"`` evaluates the loss twice for each, as the article does.

        Returns:
            arrays shaped like ``params``, by the same names.
        """
        params, batch = self._flat(), self._batch(x, t)
        n_params = self._network.n_params
        objective: Propagation | BlackBox
        if method == "propagate":
            objective = Propagation(self._network, "central", h)
        elif method == "naive":
            objective = BlackBox(self._network.loss, ParamsLayout((), ((n_params,),)), n_params, "central", h)
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
            raise InputError(f"t holds what is no label; labels must be whole numbers from 0 to {n_classes - 1}.")
        return x, t
