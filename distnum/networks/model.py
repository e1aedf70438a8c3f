"""A trained network as a file, and images as its input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset, as_inputs
from distnum.networks.activations import Activation
from distnum.networks.dense import Network
from distnum.networks.metrics import Evaluation, evaluate
from distnum.storage.checkpoints import params_sha256
from distnum.storage.run_folder import RunFolder

__all__ = ["Model", "load", "load_model"]


@dataclass(frozen=True)
class Model:
    """A network with its parameters, and how its examples looked.

    Attributes:
        network, params: the network and its flat parameters.
        example_shape: of one example as it came: ``(28, 28)``.
        pixels: whether examples were bytes, scaled to 0 ... 1.
        data: the name of the data set it was trained on.
    """

    network: Network
    params: NDArray[np.floating]
    example_shape: tuple[int, ...]
    pixels: bool
    data: str

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """The most probable label of each example, shape ``(n,)``; ``x`` as the data set holds them."""
        return self.probabilities(x).argmax(axis=1)

    def probabilities(self, x: NDArray[np.generic]) -> NDArray[np.floating]:
        """Softmax of the outputs, shape ``(n, n_outputs)``."""
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = self.network.outputs(self.params, as_inputs(x, self.params.dtype))
        if not np.isfinite(outputs).all():
            raise InputError("an example holds numbers so large that the network's outputs are not finite.")
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def evaluate(self, dataset: Dataset) -> Evaluation:
        """The network on the test examples of a data set.

        Raises:
            InputError: the data set does not fit the network.
        """
        if dataset.n_inputs != self.network.n_inputs:
            raise InputError(
                f"data {dataset.name} has {dataset.n_inputs} inputs an example; "
                f"the model takes {self.network.n_inputs}."
            )
        if not dataset.has_labels and self.network.loss_function.name == "cross_entropy":
            raise InputError(f"data {dataset.name} has real targets; this model's cross_entropy needs labels.")
        if dataset.has_labels and int(dataset.y_test.max()) >= self.network.n_outputs:
            raise InputError(
                f"data {dataset.name} has the label {int(dataset.y_test.max())}; this model knows labels below "
                f"{self.network.n_outputs}."
            )
        if not dataset.has_labels and dataset.n_outputs != self.network.n_outputs:
            raise InputError(
                f"data {dataset.name} has {dataset.n_outputs} targets an example; this model gives "
                f"{self.network.n_outputs}."
            )
        return evaluate(self.network, self.params, dataset.x_test, dataset.y_test)


def load(folder: str | Path, *, activation: Activation | None = None) -> Model:
    """The trained network in the folder of a run, to predict and to evaluate with.

    Args:
        folder: that ``distnum train`` or ``train(out=...)`` has made.
        activation: the one that the network was trained with, if it was a function of your own.

    Raises:
        InputError: there is no such run, it has no network yet, or its file is damaged.
    """
    return load_model(RunFolder.look(folder), activation)


def load_model(run: RunFolder, activation: Activation | None = None) -> Model:
    """The trained network of a run, with its activation or the one given.

    Raises:
        InputError: the run has none yet, or its file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = run.model_file
    if not path.is_file():
        raise InputError(f"run {run.name!r} has no trained model yet; finish it with: distnum resume {run.name}")
    try:
        with safe_open(path, framework="numpy") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if about.get("format") != "distnum-model-1":
            raise InputError(f"{path} is not a network of distnum; a run of a Python function has no model to apply.")
        network = Network(
            [int(size) for size in about["sizes"].split(",")],
            activation=activation if activation is not None else about["activation"],
            loss=about["loss"],
        )
        if network.activation.name != about["activation"]:
            raise InputError(
                f"activation is {network.activation.name}, but {path} was trained with {about['activation']}; "
                "it must be the same."
            )
        params = network.pack(tensors)
        if params_sha256(params) != about["params_sha256"]:
            raise InputError(f"{path} is damaged: its parameters do not have the checksum that it names.")
        example_shape = tuple(int(n) for n in about["example_shape"].split(","))
        if min(example_shape) < 1 or int(np.prod(example_shape)) != network.n_inputs:
            raise InputError(f"{path} is damaged: examples of shape {example_shape} do not fit network {network}.")
        if about["pixels"] not in ("true", "false"):
            raise InputError(f"{path} is damaged: pixels is {about['pixels']!r}; it must be 'true' or 'false'.")
        return Model(network, params, example_shape, about["pixels"] == "true", about["data"])
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is damaged: its header names no {error}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
