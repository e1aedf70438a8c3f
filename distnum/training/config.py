"""One frozen, validated configuration of a run: the same fields for the command line, TOML and Python.

Every field says here, once, what it may be and what it is for; options of the command
line, the checks and their messages follow from that. Numerical modules never see it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from distnum.common.checks import Check, checked, choice, either, optional, real, whole
from distnum.common.errors import InputError
from distnum.differentiation.schemes import SCHEMES
from distnum.differentiation.steps import default_h
from distnum.networks.dense import INITS
from distnum.networks.losses import LOSSES
from distnum.training.fields import ACTIVATION, ADDRESS, RESOURCES, SIZES, TEXT, WORKERS
from distnum.training.optimizers import OPTIMIZERS, SCHEDULES

__all__ = ["KEEPING", "Config", "check_of", "config_of"]

METHODS = ("propagate", "naive")
DTYPES = ("float64", "float32")
ARTICLE_H = 1e-4


def _field(kind: Check, help: str, default: Any, metavar: str | None = None, group: str = "") -> Any:
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
        TEXT,
        "mnist-10k, or the path or URI of a folder of the four IDX files or of an .npz file",
        "mnist-10k",
        "DATA",
        NETWORK,
    )
    hidden: tuple[int, ...] = _field(
        SIZES, "units of the hidden layers: 50, or 256,256, or none", (50,), "N,N", NETWORK
    )
    activation: str = _field(
        ACTIVATION,
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
        WORKERS,
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
        optional(ADDRESS),
        "a Ray cluster that runs already (HOST:PORT or auto), as RAY_ADDRESS; by default one is started here",
        None,
        "ADDRESS",
        MACHINE,
    )

    resources: str | None = _field(
        optional(RESOURCES),
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
            kind: Check = item.metadata["kind"]
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

    def identity(self) -> dict[str, Any]:
        """The fields that decide the bits of the parameters after a given step."""
        groups = {item.name: item.metadata["group"] for item in fields(self)}
        # A finite step has the same bits whatever is to be done at one that is not.
        free = {name for name, group in groups.items() if group in (KEEPING, MACHINE)} | {"on_nonfinite"}
        return {name: value for name, value in self.to_dict().items() if name not in free}


def check_of(name: str) -> Check:
    """What the field of that name may be."""
    return next(item.metadata["kind"] for item in fields(Config) if item.name == name)


def config_of(values: Mapping[str, Any], source: str) -> Config:
    """The configuration in the values of a TOML file."""
    return Config().with_changes(values, f"{source}: ")
