"""One frozen, validated configuration of a run: the same fields for the command line, TOML and Python.

Every field says here, once, what it may be and what it is for; options of the command
line, the checks and their messages follow from that. Numerical modules never see it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distnum.activations import CUSTOM, get_activation
from distnum.errors import InputError
from distnum.kinds import Kind, as_int, checked, choice, either, optional, real, whole
from distnum.losses import LOSSES
from distnum.networks import INITS
from distnum.optimizers import OPTIMIZERS, SCHEDULES
from distnum.schemes import SCHEMES, default_h

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "kind_of", "read_toml", "resources_of", "workers_range", "write_toml"]

METHODS = ("propagate", "naive")
DTYPES = ("float64", "float32")

ARTICLE_H = 1e-4
_MOST_UNITS = 1_000_000
_MOST_WORKERS = 100_000


def _text(value: Any) -> str:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError
    return str(value)


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = () if value.strip() in ("", "none") else value.split(",")
    elif isinstance(value, (int, np.integer)):
        value = (value,)
    elif not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError
    convert = whole(1, _MOST_UNITS).convert
    return tuple(convert(size) for size in value)


def _activation(value: Any) -> str:
    if isinstance(value, str) and value.startswith(CUSTOM):
        return value  # it comes beside the configuration
    return get_activation(value).name


def _workers(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and ":" in value:
        least, most = workers_range(value)
        if most is None or not 1 <= least <= most <= _MOST_WORKERS:
            raise ValueError
        return value if least < most else least
    return int(whole(0, _MOST_WORKERS).convert(value))


def workers_range(workers: int | str) -> tuple[int, int | None]:
    """The least and the most workers that a field ``workers`` allows; None for as many as suit the cluster.

    >>> workers_range("2:8"), workers_range(4), workers_range("auto")
    ((2, 8), (4, 4), (1, None))
    """
    if workers == "auto":
        return 1, None
    least, colon, most = str(workers).partition(":")
    return as_int(least), as_int(most if colon else least)


def _address(value: Any) -> str:
    text = _text(value)
    host, _, port = text.removeprefix("ray://").rpartition(":")
    if text not in ("auto", "local") and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError
    return text


def _resources(value: Any) -> str:
    """A text such as ``GPU=1,spot=0.1``, from a dict too."""
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={amount:g}" for name, amount in value.items())
    resources_of(_text(value))
    return str(value)


def resources_of(resources: str | None) -> dict[str, float]:
    """What a field ``resources`` asks for, by name.

    >>> resources_of("GPU=1,spot=0.1")
    {'GPU': 1.0, 'spot': 0.1}
    """
    found: dict[str, float] = {}
    for item in resources.split(",") if resources else ():
        name, _, amount = item.partition("=")
        number = real(above=0).convert(amount)
        if not name.strip() or name.strip() in found or name.strip() == "CPU":
            raise ValueError
        found[name.strip()] = number
    return found


_RESOURCES = Kind("NAME=NUMBER,... of what Ray calls resources, but for CPU, each number above 0", _resources)
_ADDRESS = Kind("HOST:PORT of a Ray cluster's head, or auto", _address)
_WORKERS = Kind("'auto' or a whole number of at least 0 and at most 100,000, or two of them as in 2:8", _workers)
_TEXT = Kind("a text that is not empty", _text)
_SIZES = Kind(f"whole numbers of at least 1 and at most {_MOST_UNITS:,}, separated by commas, or 'none'", _sizes)
_ACTIVATION = Kind("the name of an activation", _activation)


def _field(kind: Kind, help: str, default: Any, metavar: str | None = None, group: str = "") -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, "metavar": metavar, "group": group})


NETWORK, GRADIENT, TRAINING, KEEPING, MACHINE = (
    "the network and its data",
    "the gradient",
    "the training",
    "what is kept",
    "where it runs (never changes the result)",
)


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, and where it runs.

    The fields are those of ``distnum train --help``. Values are checked and converted when
    the configuration is made.

    Raises:
        InputError: a value is not allowed; the message names the value, the field and what is.

    >>> Config(hidden="256,256").hidden
    (256, 256)
    """

    data: str = _field(
        _TEXT,
        "mnist-10k, or the path or URI of a folder of the four IDX files or of an .npz file",
        "mnist-10k",
        "DATA",
        NETWORK,
    )
    hidden: tuple[int, ...] = _field(
        _SIZES, "units of the hidden layers: 50, or 256,256, or none", (50,), "N,N", NETWORK
    )
    activation: str = _field(
        _ACTIVATION,
        "relu, leaky_relu[:SLOPE], tanh, sigmoid, softplus, identity, step, sign, or quantize[:LEVELS]",
        "relu",
        "NAME",
        NETWORK,
    )
    loss: str = _field(
        choice(*LOSSES),
        "loss of the network: cross_entropy of the softmax, for labels, or mean_squared_error",
        "cross_entropy",
        None,
        NETWORK,
    )
    init: str = _field(
        choice(*INITS),
        "spread of the initial weights, by a layer's inputs (he) or its inputs and outputs (xavier)",
        "he",
        None,
        NETWORK,
    )
    init_std: float | None = _field(
        optional(real(above=0)),
        "one standard deviation for all weights instead, as in the article (0.01)",
        None,
        "STD",
        NETWORK,
    )
    dtype: str = _field(choice(*DTYPES), "of the parameters and all arithmetic", "float64", None, NETWORK)

    method: str = _field(
        choice(*METHODS),
        "propagate follows each parameter's change through the network; naive runs whole forward passes for each, "
        "as the article does, which takes thousands of times as long",
        "propagate",
        None,
        GRADIENT,
    )
    scheme: str = _field(
        choice(*SCHEMES),
        "finite differences of first order (forward, backward), second (central) or fourth (central4)",
        "central",
        None,
        GRADIENT,
    )
    h: float | Literal["auto"] = _field(
        either("auto", real(above=0)),
        "step of the differences, or auto to choose by scheme and dtype",
        ARTICLE_H,
        "H",
        GRADIENT,
    )

    steps: int = _field(whole(1), "steps of the optimizer", 1000, "N", TRAINING)
    batch_size: int = _field(whole(1), "examples in a batch", 100, "N", TRAINING)
    learning_rate: float = _field(real(above=0), "learning rate", 0.1, "RATE", TRAINING)
    optimizer: str = _field(choice(*OPTIMIZERS), "update rule", "sgd", None, TRAINING)
    momentum: float = _field(real(at_least=0, at_most=1), "of momentum and nesterov", 0.9, "M", TRAINING)
    schedule: str = _field(
        choice(*SCHEDULES),
        "how the learning rate changes: not at all, falling to zero along a cosine, or lowered every few steps",
        "constant",
        None,
        TRAINING,
    )
    schedule_every: int = _field(whole(1), "steps after which schedule 'step' lowers the rate", 300, "N", TRAINING)
    schedule_factor: float = _field(real(above=0), "what schedule 'step' multiplies the rate by", 0.1, "F", TRAINING)
    weight_decay: float = _field(
        real(at_least=0),
        "share of the parameters, times the learning rate, that every step takes off them",
        0.0,
        "W",
        TRAINING,
    )
    clip_norm: float | None = _field(
        optional(real(above=0)), "shorten longer gradients to this norm (default: never)", None, "NORM", TRAINING
    )
    on_nonfinite: str = _field(
        choice("stop", "skip", "rollback"),
        "what to do where a loss or gradient is not finite: stop, skip the step, or go back to the last checkpoint "
        "with half the learning rate",
        "stop",
        None,
        TRAINING,
    )
    seed: int = _field(whole(0, 2**63 - 1), "of the initial weights and the batches", 0, "N", TRAINING)

    evaluate_every: int = _field(whole(1), "steps between evaluations on the test examples", 100, "N", KEEPING)
    checkpoint_every: int = _field(whole(1), "steps between checkpoints", 100, "N", KEEPING)
    keep_checkpoints: int = _field(whole(1), "how many checkpoints to keep", 3, "N", KEEPING)
    on_write_error: str = _field(
        choice("stop", "continue"),
        "what to do where the run's folder cannot be written: stop, or train on and try again",
        "stop",
        None,
        KEEPING,
    )

    workers: int | str = _field(
        _WORKERS,
        "Ray workers; auto for what suits the machine, 2:8 for at least two and up to eight as they come and go, "
        "0 for this process without Ray",
        "auto",
        "N",
        MACHINE,
    )
    threads_per_worker: int | Literal["auto"] = _field(
        either("auto", whole(1, 10_000)), "threads of each worker", "auto", "N", MACHINE
    )
    address: str | None = _field(
        optional(_ADDRESS),
        "a Ray cluster that runs already (HOST:PORT or auto), as RAY_ADDRESS; by default one is started here",
        None,
        "ADDRESS",
        MACHINE,
    )

    resources: str | None = _field(
        optional(_RESOURCES),
        "what each worker asks Ray for beside its CPUs, as GPU=1 or spot=0.1: it runs only on nodes that have it",
        None,
        "NAME=N",
        MACHINE,
    )
    step_deadline: float | Literal["auto"] = _field(
        either("auto", real(above=0)),
        "seconds after which a worker is given up that does not answer; auto takes them from what answers have taken",
        "auto",
        "S",
        MACHINE,
    )
    wait_for_workers: float = _field(
        real(at_least=0), "seconds to wait for workers where there are too few", 60.0, "S", MACHINE
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind: Kind = item.metadata["kind"]
            object.__setattr__(self, item.name, checked(item.name, value, kind))
        if self.workers == 0 and self.address is not None:
            raise InputError(f"address is {self.address!r}, but workers is 0, which uses no Ray; leave one out.")

    @property
    def step_size(self) -> float:
        """``h`` as a number."""
        if self.h == "auto":
            return default_h(SCHEMES[self.scheme], self.dtype)
        return float(self.h)

    def with_changes(self, changes: Mapping[str, Any], source: str = "") -> Config:
        """This configuration with some fields changed.

        Raises:
            InputError: there is no such field, or a value is not allowed.
        """
        names = [item.name for item in fields(self)]
        for name in changes:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; the fields are {', '.join(names)}."
                raise InputError(f"{source}{name!r} is not a field of a configuration{hint}")
        try:
            return replace(self, **changes)
        except InputError as error:
            raise InputError(f"{source}{error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, texts and lists; those that are None are left out."""
        pairs = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in pairs if v is not None}

    def deciding(self) -> dict[str, Any]:
        """The fields that decide the bits of the parameters after a given step."""
        groups = {item.name: item.metadata["group"] for item in fields(self)}
        # A finite step has the same bits whatever is to be done at one that is not.
        free = {name for name, group in groups.items() if group in (KEEPING, MACHINE)} | {"on_nonfinite"}
        return {name: value for name, value in self.to_dict().items() if name not in free}


def kind_of(name: str) -> Kind:
    """What the field of that name may be."""
    return next(item.metadata["kind"] for item in fields(Config) if item.name == name)


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file.

    Raises:
        InputError: there is no such file, or it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f"config is {str(path)!r}, which is not found; it must be a TOML file.") from None
    except OSError as error:
        raise InputError(f"config is {str(path)!r}, which cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"config is {str(path)!r}, which is not valid TOML: {error}") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """The text of a TOML file with these fields."""
    import tomli_w

    return tomli_w.dumps(dict(values))
