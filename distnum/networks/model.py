"""Trained networks: as a file in a run folder, to predict and to evaluate with."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset
from distnum.networks.activations import Activation
from distnum.networks.dense import Network
from distnum.networks.losses import CrossEntropy
from distnum.networks.metrics import Evaluation, evaluate
from distnum.storage.checkpoints import params_sha256
from distnum.storage.plain_files import check_plain
from distnum.storage.run_folder import RunFolder

__all__ = ["Model", "load", "load_model", "model_header"]

_FORMAT = "distnum-model-1"


@dataclass(frozen=True)
class Model:
    """A trained network.

    Attributes:
        network: The network.
        params: Its parameters, shape ``(n_params,)``.
        example_shape: Shape of one example in the training data, such as ``(28, 28)``.
        pixels: Whether the examples were bytes, which are scaled to 0 ... 1.
        data: Name of the training data.
    """

    network: Network
    params: NDArray[np.floating]
    example_shape: tuple[int, ...]
    pixels: bool
    data: str

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """Most probable label of each example, shape ``(n,)``; ``x`` as in ``probabilities``."""
        return self.probabilities(x).argmax(axis=1)

    def probabilities(self, x: NDArray[np.generic]) -> NDArray[np.floating]:
        """Probability of each label, shape ``(n, n_outputs)``: the softmax of the outputs.

        Args:
            x: Examples as a data set holds them, shape ``(n, n_inputs)``.

        Raises:
            InputError: If an output is not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = self.network.outputs(self.params, x)
        if not np.isfinite(outputs).all():
            raise InputError("an example holds numbers so large that the network's outputs are not finite.")
        return CrossEntropy.probabilities(outputs)

    def evaluate(self, dataset: Dataset) -> Evaluation:
        """Scores on the test examples of a data set.

        Raises:
            InputError: If the data set does not fit the network.
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


def model_header(network: Network, dataset: Dataset) -> dict[str, str]:
    """Metadata of a model file: what ``load_model`` needs in addition to the parameters."""
    return {
        "format": _FORMAT,
        "sizes": ",".join(str(size) for size in network.sizes),
        "activation": network.activation.name,
        "loss": network.loss_function.name,
        "example_shape": ",".join(str(n) for n in dataset.example_shape),
        "pixels": str(dataset.x_train.dtype == np.uint8).lower(),
        "data": dataset.name,
    }


def load(folder: str | Path, *, activation: Activation | None = None) -> Model:
    """The trained network of a run, to predict and to evaluate with.

    Args:
        folder: Folder that ``distnum train`` or ``train(out=...)`` has made.
        activation: The activation that the network was trained with, if it is a function of your own.

    Raises:
        InputError: If there is no such run, it has no network yet, or its file is damaged.
    """
    return load_model(RunFolder.look(folder), activation)


def load_model(run: RunFolder, activation: Activation | None = None) -> Model:
    """The trained network of an opened run folder; see ``load``.

    Raises:
        InputError: If the run has no network yet, or its file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = run.model_file
    if not path.is_file():
        raise InputError(f"run {run.name!r} has no trained model yet; finish it with: distnum resume {run.name}")
    try:
        check_plain(path)
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if header.get("format") != _FORMAT:
            raise InputError(f"{path} is not a network of distnum; a run of a Python function has no model to apply.")
        network = Network(
            [int(size) for size in header["sizes"].split(",")],
            activation=activation if activation is not None else header["activation"],
            loss=header["loss"],
        )
        if network.activation.name != header["activation"]:
            raise InputError(
                f"activation is {network.activation.name}, but {path} was trained with {header['activation']}; "
                "it must be the same."
            )
        params = network.pack(tensors)
        if params_sha256(params) != header["params_sha256"]:
            raise InputError(f"{path} is damaged: its parameters do not have the checksum that it names.")
        example_shape = tuple(int(n) for n in header["example_shape"].split(","))
        if min(example_shape) < 1 or prod(example_shape) != network.n_inputs:
            raise InputError(f"{path} is damaged: examples of shape {example_shape} do not fit network {network}.")
        if header["pixels"] not in ("true", "false"):
            raise InputError(f"{path} is damaged: pixels is {header['pixels']!r}; it must be 'true' or 'false'.")
        return Model(network, params, example_shape, header["pixels"] == "true", header["data"])
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is damaged: its header names no {error}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
