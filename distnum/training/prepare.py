"""Makes the job that a configuration, or the arguments of ``train``, describe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset, arrays_sha256, batch_at, batch_of_rows
from distnum.datasets.readers import load_data
from distnum.differentiation.black_box import BlackBox, LossFunction, no_batch
from distnum.differentiation.objective import Objective
from distnum.differentiation.options import Request
from distnum.evaluation.forms import Form, Params
from distnum.networks.activations import Activation
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.storage.checkpoints import State, frozen
from distnum.training.config import Config
from distnum.training.domain import Domain
from distnum.training.function_options import DERIVATIVE_OPTIONS, NETWORK_FIELDS, split_options
from distnum.training.job import Job, optimizer_of
from distnum.training.subject import FunctionSubject, NetworkSubject
from distnum.workers.pool import BatchAt

__all__ = ["function_job", "network_job", "prepare"]

log = logging.getLogger("distnum")

# A smaller step meets few jumps of an activation that is flat between them.
_SMALL_FOR_JUMPS = 0.01


def prepare(
    loss: str | LossFunction | None, params: Params | None, data: Any, config: Config | None, options: Mapping[str, Any]
) -> Job:
    """The job that the arguments of ``train`` describe.

    Raises:
        InputError: An argument cannot be used.
    """
    base = config if config is not None else Config()
    if callable(loss):
        if params is None:
            raise InputError("params is missing; a loss function needs the parameters to begin with.")
        for name in sorted(NETWORK_FIELDS & set(options)):
            raise InputError(f"{name} is {options[name]!r}, but a loss function is no network; leave it out.")
        if config is None:
            base = replace(base, h="auto")
        fields, derivative = split_options(options, base.scheme)
        return function_job(loss, params, data, base.with_changes(fields), derivative)
    for name in sorted(DERIVATIVE_OPTIONS & set(options)):
        raise InputError(f"{name} is given, but a network is trained; it is an option for loss functions.")
    if loss is not None and not isinstance(loss, str):
        raise InputError(f"loss is {loss!r:.60}; it must be a function, or the name of a network's loss.")
    if params is not None:
        raise InputError("params is given without a loss function; a network makes its own parameters from the seed.")
    if loss is not None:
        options = {**options, "loss": loss}
    if isinstance(data, tuple):
        if len(data) != 4:
            raise InputError(f"data is a tuple of {len(data)}; it must be (x_train, y_train, x_test, y_test).")
        x_train, y_train, x_test, y_test = (np.asarray(array) for array in data)
        data = Dataset(x_train, y_train, x_test, y_test)
    activation = options.get("activation")
    own_activation = activation if isinstance(activation, Activation) else None
    if isinstance(data, Dataset):
        return network_job(base.with_changes(options), data, own_activation)
    if data is not None:
        options = {**options, "data": data}
    return network_job(base.with_changes(options), activation=own_activation)


def network_job(config: Config, dataset: Dataset | None = None, activation: Activation | None = None) -> Job:
    """The job of training a network on a data set.

    Args:
        config: Configuration.
        dataset: Data set; by default the one that the configuration names.
        activation: Activation; by default the one that the configuration names.

    Raises:
        InputError: The data cannot be read, or does not fit the configuration.
    """
    if dataset is None:
        dataset = load_data(config.data)
    config = replace(config, data=dataset.name)
    for field in ("x_train", "x_test"):
        x = getattr(dataset, field)
        if x.dtype.kind == "f" and np.abs(x).max() > np.finfo(config.dtype).max:
            raise InputError(f"{dataset.name}: {field} holds {np.abs(x).max():g}, which {config.dtype} cannot hold.")
    if config.loss == "cross_entropy" and not dataset.has_labels:
        raise InputError(
            f"loss is 'cross_entropy', but the targets of {dataset.name} are real numbers; "
            "it must be mean_squared_error for them."
        )
    network = Network(
        (dataset.n_inputs, *config.hidden, dataset.n_outputs),
        activation=activation if activation is not None else config.activation,
        loss=config.loss,
    )
    subject = NetworkSubject(network, dataset)
    batches = subject.batches(config)
    _check_memory(network, config)
    if network.activation.jumps and config.step_size < _SMALL_FOR_JUMPS:
        log.warning(
            f"activation {network.activation.name} is flat but for its jumps, and with h = {config.step_size:g} hardly "
            "any unit is moved over one; a step near 0.1 sees more of the loss."
        )
    params = network.initial_params(config.seed, config.init, config.init_std, config.dtype)
    objective: Objective
    if config.method == "propagate":
        objective = Propagation(network, config.scheme, config.step_size)
    else:
        form = Form.of_array((network.n_params,), "params")
        objective = BlackBox(network.loss, form, network.n_params, config.scheme, config.step_size, network.param_name)
    return Job(config, subject, objective, batches, _initial_state(config, params), dataset.sha256)


def _check_memory(network: Network, config: Config) -> None:
    """Refuse a network that does not fit into this machine's memory."""
    import psutil

    # Parameters, gradient, update and the optimiser's state; and the confusion matrix.
    n_bytes = 6 * 8 * network.n_params + 8 * network.n_outputs**2
    available = psutil.virtual_memory().available
    if n_bytes > available:
        raise InputError(
            f"hidden is {','.join(map(str, config.hidden)) or 'none'}, which makes a network {network} of "
            f"{network.n_params:,} parameters; it needs {n_bytes / 2**30:,.1f} GiB, and "
            f"{available / 2**30:,.1f} are free."
        )


def function_job(
    loss: LossFunction, params: Params, data: Any, config: Config, derivative: Mapping[str, Any] | None = None
) -> Job:
    """The job of training any callable ``loss(params, batch)``.

    Args:
        loss: Function to minimise.
        params: Initial parameters: a number, an array, or nested dicts, lists and tuples of them.
        data: As for ``distnum.train``.
        config: Configuration; its fields about networks do not matter.
        derivative: Options of ``differentiate`` that are not in the configuration.

    Raises:
        InputError: An argument cannot be used.
    """
    h = None if config.h == "auto" else float(config.h)
    batches = _batches(data, config)
    options = {"scheme": config.scheme, "h": h, "progress": False, **(derivative or {})}
    request = Request.of(loss, params, options, takes="loss", what="params", batch_at=batches)
    config = replace(config, dtype=str(request.x.dtype))
    objective = BlackBox(loss, request.form, len(request.x), config.scheme, h)
    return Job(
        config,
        FunctionSubject(loss, request, frozenset(derivative or ())),
        objective,
        batches,
        _initial_state(config, request.x),
        _data_sha256(data),
        Domain.of(request),
    )


def _batches(data: Any, config: Config) -> BatchAt:
    if data is None:
        return no_batch
    source: Callable[[int], Any]
    if isinstance(data, Dataset):
        n_rows = len(data.x_train)
        source = partial(batch_at, data, config.seed, config.batch_size, config.dtype)
    elif callable(data):
        return cast("BatchAt", data)
    elif isinstance(data, (str, Path)):
        raise InputError(f"data is {str(data)!r}; for a loss function it must be arrays, or distnum.load_data of it.")
    else:
        arrays = tuple(np.asarray(one) for one in data) if isinstance(data, (tuple, list)) else np.asarray(data)
        lengths = {len(one) if one.ndim else 0 for one in (arrays if isinstance(arrays, tuple) else (arrays,))}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"data is {type(data).__name__} with {sorted(lengths)} rows; it must be one array or several, with the "
                "same number of rows, at least 1."
            )
        n_rows = lengths.pop()
        source = partial(batch_of_rows, arrays, config.seed, config.batch_size)
    if config.batch_size > n_rows:
        raise InputError(f"batch_size is {config.batch_size:,}, but data has {n_rows:,} rows; it must not be more.")
    return source


def _data_sha256(data: Any) -> str | None:
    if data is None or callable(data):
        return None
    if isinstance(data, Dataset):
        return data.sha256
    return arrays_sha256(*(data if isinstance(data, (tuple, list)) else (data,)))


def _initial_state(config: Config, params: Array) -> State:
    return State(0, frozen(params), optimizer_of(config).initial_state(params))
