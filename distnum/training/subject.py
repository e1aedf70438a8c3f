"""What a job trains: a network or a Python function.

A ``Subject`` names the parameters, evaluates them, describes itself, and says which fields of a
configuration apply to it. A new kind of subject is a new class here.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset, as_inputs, batch_at
from distnum.differentiation.black_box import LossFunction
from distnum.differentiation.options import Request
from distnum.evaluation.forms import Form
from distnum.networks.dense import Network
from distnum.networks.metrics import Evaluation, evaluate
from distnum.networks.model import model_header
from distnum.training.config import Config
from distnum.training.function_options import NETWORK_FIELDS, identity_of_options
from distnum.workers.pool import BatchAt

__all__ = ["FunctionSubject", "NetworkSubject", "Subject"]


class Subject(Protocol):
    """What a job trains.

    Attributes:
        unequal_bits: Phrase for messages: why repeating the same steps may give different parameters.
    """

    unequal_bits: str

    @property
    def network(self) -> Network | None:
        """The network; None for a function."""
        ...

    def describe(self, config: Config) -> list[tuple[str, str]]:
        """Lines that introduce a training: a short title and a text each."""
        ...

    def method(self, config: Config) -> str:
        """How gradients are computed, as a phrase: the scheme, the step ``h`` and the method."""
        ...

    def named(self, params: Array) -> dict[str, Array]:
        """The parameters as arrays by name; views of the flat array."""
        ...

    def restored(self, params: Array) -> Any:
        """The parameters in the form in which the user gave them."""
        ...

    def evaluate(self, params: Array) -> Evaluation | None:
        """The evaluation on test examples; None if there are none."""
        ...

    def predict(self, params: Array, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """Labels of examples.

        Raises:
            InputError: This subject gives no labels.
        """
        ...

    def header(self) -> dict[str, str]:
        """Metadata of the file that keeps the trained parameters."""
        ...

    def config_values(self, config: Config) -> dict[str, Any]:
        """What ``config.toml`` of a run holds."""
        ...

    def identity(self) -> dict[str, Any]:
        """What of the subject must stay the same when a run is continued, beside the configuration."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Facts that distinguish this subject from others with the same configuration and number of parameters."""
        ...

    def batches(self, config: Config) -> BatchAt:
        """Return ``batch_at`` for a configuration that may differ in its batch size.

        Raises:
            InputError: The subject's batches have no size, or there are too few examples.
        """
        ...


@dataclass(frozen=True)
class NetworkSubject:
    """A network and the data set that it is trained on."""

    network: Network
    dataset: Dataset

    unequal_bits = "processors or libraries of the workers round differently"

    def describe(self, config: Config) -> list[tuple[str, str]]:
        """The network and its data."""
        network, dataset = self.network, self.dataset
        targets = f"{dataset.n_outputs} classes" if dataset.has_labels else f"{dataset.n_outputs} targets"
        return [
            (
                "network",
                f"{network}, {network.activation.name}, {config.loss}: {network.n_params:,} parameters, {config.dtype}",
            ),
            (
                "data",
                f"{dataset.name}: {len(dataset.x_train):,} to train, {len(dataset.x_test):,} to test, {targets}",
            ),
        ]

    def method(self, config: Config) -> str:
        """The scheme, the step and the method of the configuration."""
        return f"{config.scheme} differences, h = {config.step_size:g}, {config.method}"

    def named(self, params: Array) -> dict[str, Array]:
        """``W1``, ``b1``, ``W2``, ..."""
        return self.network.unpack(params)

    def restored(self, params: Array) -> Array:
        """The flat array itself."""
        return params

    def evaluate(self, params: Array) -> Evaluation:
        """The network on the test examples."""
        return evaluate(self.network, params, self.dataset.x_test, self.dataset.y_test)

    def predict(self, params: Array, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """The most probable label of each example, shape ``(n,)``; ``x`` as the data set holds it."""
        return self.network.predict(params, as_inputs(np.asarray(x), params.dtype))

    def header(self) -> dict[str, str]:
        """What ``distnum.load`` needs besides the parameters."""
        return model_header(self.network, self.dataset)

    def config_values(self, config: Config) -> dict[str, Any]:
        """All fields."""
        return config.to_dict()

    def identity(self) -> dict[str, Any]:
        """Nothing: the configuration is sufficient."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Nothing: the configuration and the data's checksum are sufficient."""
        return {}

    def batches(self, config: Config) -> BatchAt:
        """Random examples of the data set."""
        n_train = len(self.dataset.x_train)
        if config.batch_size > n_train:
            raise InputError(
                f"batch_size is {config.batch_size:,}, but {self.dataset.name} has {n_train:,} training examples; "
                "it must not be more."
            )
        return partial(batch_at, self.dataset, config.seed, config.batch_size, config.dtype)


@dataclass(frozen=True)
class FunctionSubject:
    """A Python function ``loss(params, batch)``, and how it is differentiated.

    Attributes:
        loss: The function.
        request: How it is differentiated.
        options: Names of the options of ``differentiate`` that are not in the configuration.
    """

    loss: LossFunction
    request: Request
    options: frozenset[str] = frozenset()

    network = None
    unequal_bits = "the function returns different numbers for the same parameters, or was changed"

    @property
    def form(self) -> Form:
        """Form of the parameters."""
        return self.request.form

    def describe(self, config: Config) -> list[tuple[str, str]]:
        """The number of parameters, and of those that are trained."""
        n, n_trained = len(self.request.x), len(self.request.indices)
        trained = "" if n_trained == n else f", {n_trained:,} of them trained"
        return [("function", f"of {n:,} parameters{trained}, {config.dtype}")]

    def method(self, config: Config) -> str:
        """The scheme and its step; functions are always evaluated as a whole."""
        request = self.request
        h = "chosen for each parameter" if request.may_search else "as given"
        if not request.may_search and np.ptp(request.h) == 0:
            h = f"= {np.max(request.h):g}"
        return f"{request.scheme.name} differences, h {h}, the whole function"

    def named(self, params: Array) -> dict[str, Array]:
        """The arrays by the user's names, such as ``layers[0].W``; ``params`` if there is one array without a name."""
        return self.form.named(params)

    def restored(self, params: Array) -> Any:
        """A number, an array, or dicts, lists and tuples of them, as the user gave them."""
        return self.form.view(params)

    def evaluate(self, params: Array) -> None:
        """Nothing: a function has no test examples."""
        return

    def predict(self, params: Array, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """Not supported.

        Raises:
            InputError: Always.
        """
        raise InputError("predict needs a network; this run trained a Python function.")

    def header(self) -> dict[str, str]:
        """The format alone: such a file cannot be applied without the function."""
        return {"format": "distnum-params-1"}

    def config_values(self, config: Config) -> dict[str, Any]:
        """The fields that apply to a function, and ``objective = "python"``."""
        values = {name: value for name, value in config.to_dict().items() if name not in NETWORK_FIELDS}
        return {"objective": "python"} | values

    def identity(self) -> dict[str, Any]:
        """Names and shapes of several arrays of parameters, in the order of the flat array; and what is not default in
        how the function is differentiated, as far as the configuration does not hold it.
        """
        facts: dict[str, Any] = {}
        if len(self.form.names) > 1:
            names_and_shapes = zip(self.form.names, self.form.shapes, strict=True)
            facts["params"] = [f"{name} {shape}" for name, shape in names_and_shapes]
        if how := identity_of_options(self.request, self.options):
            facts["derivative"] = how
        return facts

    def fingerprint(self) -> dict[str, Any]:
        """Name, source and bound arguments of the function, as far as they are known."""
        function: Any = self.loss
        bound = []
        while isinstance(function, partial):
            bound.append((function.args, function.keywords))
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        facts: dict[str, Any] = {"function": f"{named.__module__}.{named.__qualname__}"}
        if bound:  # without addresses in memory, which differ from process to process
            facts["arguments_sha256"] = sha256(re.sub(r" at 0x\w+", "", repr(bound)).encode()).hexdigest()
        try:
            return facts | {"source_sha256": sha256(inspect.getsource(named).encode()).hexdigest()}
        except (OSError, TypeError):
            return facts

    def batches(self, config: Config) -> BatchAt:
        """Not supported.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "mode is 'weak', which grows the batch with the workers; a loss function decides itself what it does with "
            "a batch; use mode 'strong' for a function."
        )
