"""Dense networks over one flat array of parameters.

The parameters of a network with sizes ``(784, 50, 10)`` are ``W1, b1, W2, b2`` one after the
other, each in row-major order: each layer is an array of ``n_in + 1`` rows of ``n_out`` numbers, and
its last row is the bias. This module holds the plain forward pass; ``propagation/`` differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.randomness import Purpose, random_generator
from distnum.datasets.dataset import as_inputs
from distnum.networks.activations import Activation, get_activation
from distnum.networks.losses import get_loss

__all__ = ["INITS", "Network"]
Targets = NDArray[np.generic]
INITS = ("he", "xavier")

# Examples in one forward pass of a whole data set; bounds the memory.
_EVALUATION_BLOCK = 1000


@dataclass(frozen=True)
class Layer:
    """Position of a dense layer in the flat array: ``n_in`` rows of weights from ``start`` on, then one of biases."""

    start: int
    n_in: int
    n_out: int

    @property
    def n_rows(self) -> int:
        return self.n_in + 1

    @property
    def stop(self) -> int:
        return self.start + self.n_rows * self.n_out

    def rows(self, params: Array) -> Array:
        """View of the layer's parameters, shape ``(n_in + 1, n_out)``."""
        return params[self.start : self.stop].reshape(self.n_rows, self.n_out)


@dataclass(frozen=True)
class ForwardPass:
    """Inputs and pre-activations of a forward pass, one array for each layer.

    Attributes:
        inputs: Shape ``(n_examples, n_in)``.
        preactivations: Shape ``(n_examples, n_out)``; the last are the outputs.
    """

    inputs: tuple[Array, ...]
    preactivations: tuple[Array, ...]

    @property
    def outputs(self) -> Array:
        return self.preactivations[-1]


class Network:
    """A dense network: affine layers, an activation after each but the last, and a loss.

    Args:
        sizes: Number of inputs, of units of each hidden layer, and of outputs, such as ``(784, 50, 10)``.
        activation: The activation of all hidden layers: a name (``"relu"``, ``"quantize:4"``, ...) or an
            ``Activation``.
        loss: ``"cross_entropy"`` (of the softmax of the outputs) or ``"mean_squared_error"``.

    Raises:
        InputError: If a size, the activation or the loss is not valid.

    >>> Network((784, 50, 10)).n_params
    39760
    """

    def __init__(
        self, sizes: Sequence[int], activation: str | Activation = "relu", loss: str = "cross_entropy"
    ) -> None:
        sizes = tuple(sizes)
        if len(sizes) < 2:
            raise InputError(f"sizes is {sizes}; it must name at least the units of the input and of the output.")
        for size in sizes:
            if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
                raise InputError(f"sizes is {sizes}; every size must be a whole number of at least 1.")
        self.sizes = tuple(int(size) for size in sizes)
        self.activation = get_activation(activation)
        self.loss_function = get_loss(loss)

    def __repr__(self) -> str:
        return f"Network({self.sizes}, activation={self.activation.name!r}, loss={self.loss_function.name!r})"

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        start = 0
        for n_in, n_out in pairwise(self.sizes):
            layers.append(Layer(start, n_in, n_out))
            start = layers[-1].stop
        return tuple(layers)

    @property
    def n_params(self) -> int:
        return self.layers[-1].stop

    @property
    def n_inputs(self) -> int:
        return self.sizes[0]

    @property
    def n_outputs(self) -> int:
        return self.sizes[-1]

    def __str__(self) -> str:
        return "-".join(str(size) for size in self.sizes)

    # --- parameters ---------------------------------------------------------------

    def initial_params(
        self, seed: int = 0, init: str = "he", init_std: float | None = None, dtype: DTypeLike = np.float64
    ) -> Array:
        """Random weights and zero biases, shape ``(n_params,)``.

        The standard deviation of a layer's weights is ``init_std`` if that is given (as in the
        article), else ``sqrt(2 / n_in)`` for ``"he"`` (He et al. 2015, equation 10) or
        ``sqrt(2 / (n_in + n_out))`` for ``"xavier"`` (Glorot and Bengio 2010, equation 12). Weights are
        drawn in float64 and rounded to ``dtype``, so both dtypes get the same network.

        Raises:
            InputError: If ``init`` is not one of ``INITS``.
        """
        if init not in INITS:
            raise InputError(f"init is {init!r}; it must be one of {', '.join(INITS)}.")
        generator = random_generator(seed, Purpose.INITIAL_PARAMS)
        params = np.zeros(self.n_params)
        for layer in self.layers:
            n_in, n_out = layer.n_in, layer.n_out
            std = init_std
            if std is None:
                std = (2 / n_in) ** 0.5 if init == "he" else (2 / (n_in + n_out)) ** 0.5
            layer.rows(params)[:-1] = std * generator.standard_normal((n_in, n_out))
        return params.astype(dtype)

    def unpack(self, params: Array) -> dict[str, Array]:
        """Views of the flat array by name: ``W1 (n_in, n_out)``, ``b1 (n_out,)``, ``W2``, ..."""
        named: dict[str, Array] = {}
        for number, layer in enumerate(self.layers, start=1):
            rows = layer.rows(params)
            named[f"W{number}"], named[f"b{number}"] = rows[:-1], rows[-1]
        return named

    def pack(self, named: dict[str, Array]) -> Array:
        """The flat array of named arrays; the inverse of ``unpack``.

        Raises:
            InputError: If an array is missing or has the wrong shape.
        """
        flat: list[Array] = []
        for number, layer in enumerate(self.layers, start=1):
            for name, shape in ((f"W{number}", (layer.n_in, layer.n_out)), (f"b{number}", (layer.n_out,))):
                if name not in named:
                    raise InputError(f"parameter {name} is missing; network {self} needs it with shape {shape}.")
                array = np.asarray(named[name])
                if array.shape != shape:
                    raise InputError(f"parameter {name} has shape {array.shape}; network {self} needs {shape}.")
                flat.append(array.ravel())
        return np.concatenate(flat)

    def param_name(self, index: int) -> str:
        """Name of a parameter, such as ``W1[3, 17]`` or ``b2[4]``.

        >>> Network((784, 50, 10)).param_name(167)
        'W1[3, 17]'
        """
        for number, layer in enumerate(self.layers, start=1):
            if layer.start <= index < layer.stop:
                row, unit = divmod(index - layer.start, layer.n_out)
                return f"W{number}[{row}, {unit}]" if row < layer.n_in else f"b{number}[{unit}]"
        raise IndexError(f"parameter index {index} is not in a network of {self.n_params} parameters")

    # --- the forward pass ---------------------------------------------------------

    def forward(self, params: Array, x: Array) -> ForwardPass:
        """One forward pass of ``x``, shape ``(n_examples, n_inputs)``, in the dtype of ``params``."""
        inputs: list[Array] = []
        preactivations: list[Array] = []
        for layer in self.layers:
            rows = layer.rows(params)
            inputs.append(self.activation.value(preactivations[-1]) if preactivations else x)
            preactivations.append(inputs[-1] @ rows[:-1] + rows[-1])
        return ForwardPass(tuple(inputs), tuple(preactivations))

    def outputs(self, params: Array, x: NDArray[np.generic]) -> Array:
        """Outputs for examples ``x`` as a data set holds them, shape ``(n_examples, n_outputs)``.

        Examples are converted to the dtype of ``params`` and passed forward in blocks, which bounds the memory.
        """
        blocks = (x[i : i + _EVALUATION_BLOCK] for i in range(0, len(x), _EVALUATION_BLOCK))
        return np.concatenate([self.forward(params, as_inputs(block, params.dtype)).outputs for block in blocks])

    def losses(self, params: Array, batch: tuple[Array, Targets]) -> Array:
        """Loss of every example, shape ``(n_examples,)``."""
        x, y = batch
        return self.loss_function.values(self.outputs(params, x), y)

    def loss(self, params: Array, batch: tuple[Array, Targets]) -> float:
        """Mean loss of a batch ``(x, y)``."""
        x, y = batch
        return self.loss_function.values(self.forward(params, x).outputs, y).mean()

    def predict(self, params: Array, x: Array) -> NDArray[np.intp]:
        """Most probable label of each example, shape ``(n_examples,)``."""
        return self.outputs(params, x).argmax(axis=1)

    def accuracy(self, params: Array, x: Array, y: Targets) -> float:
        """Share of examples whose most probable label is correct; ``y`` holds labels or one-hot rows."""
        labels = y.argmax(axis=1) if y.ndim == 2 else y
        return float(np.mean(self.predict(params, x) == labels))
