"""The configuration of a run: the same fields for the command line, TOML files and Python.

Each field is defined here once, with its check, its help text and its default. Command-line
options, checks and messages follow from that. Numerical modules do not use the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from distnum.common.checks import choice, either, optional, real, whole
from distnum.common.errors import InputError
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.differentiation.stencils.steps import default_h
from distnum.networks.dense import INITS
from distnum.networks.losses import LOSSES
from distnum.training.fields import ACTIVATION, ADDRESS, RESOURCES, SIZES, TEXT, WORKERS, CheckedFields, checked_field
from distnum.training.optimizers import OPTIMIZERS, SCHEDULES

__all__ = ["KEEPING", "Config", "config_of"]

METHODS = ("propagate", "naive")
DTYPES = ("float64", "float32")
ARTICLE_H = 1e-4


NETWORK, GRADIENT, TRAINING, KEEPING, MACHINE = (
    "the network and its data",
    "the gradient",
    "the training",
    "evaluation and the run folder",
    "where it runs (does not change the result)",
)


@dataclass(frozen=True)
class Config(CheckedFields):
    """Everything that decides a run, and where it runs.

    The fields are those of ``distnum train --help``. Values are checked and converted when
    the configuration is made.

    Raises:
        InputError: A value is not allowed; the message names the value, the field and what is allowed.

    >>> Config(hidden="256,256").hidden
    (256, 256)
    """

    data: str = checked_field(
        TEXT,
        "mnist-10k, or the path or URI of an .npz file or of a folder with the four IDX files",
        "mnist-10k",
        "DATA",
        NETWORK,
    )
    hidden: tuple[int, ...] = checked_field(
        SIZES, "units of each hidden layer, as 50 or 256,256; none for no hidden layer", (50,), "N,N", NETWORK
    )
    activation: str = checked_field(
        ACTIVATION,
        "relu, leaky_relu[:SLOPE], tanh, sigmoid, softplus, identity, step, sign, or quantize[:LEVELS]",
        "relu",
        "NAME",
        NETWORK,
    )
    loss: str = checked_field(
        choice(*LOSSES),
        "cross_entropy of the softmax, which needs labels, or mean_squared_error",
        "cross_entropy",
        None,
        NETWORK,
    )
    init: str = checked_field(
        choice(*INITS),
        "standard deviation of the initial weights: from the number of a layer's inputs (he), or of its inputs and "
        "outputs (xavier)",
        "he",
        None,
        NETWORK,
    )
    init_std: float | None = checked_field(
        optional(real(above=0)),
        "one standard deviation for all initial weights, instead of --init; the article uses 0.01",
        None,
        "STD",
        NETWORK,
    )
    dtype: str = checked_field(
        choice(*DTYPES), "floating-point format of the parameters and all arithmetic", "float64", None, NETWORK
    )

    method: str = checked_field(
        choice(*METHODS),
        "propagate: follow each parameter's change through the network; naive: compute whole forward passes for each "
        "parameter, as in the article, which takes thousands of times as long",
        "propagate",
        None,
        GRADIENT,
    )
    scheme: str = checked_field(
        choice(*SCHEMES),
        "finite differences: of first order (forward, backward), second order (central) or fourth order (central4)",
        "central",
        None,
        GRADIENT,
    )
    h: float | Literal["auto"] = checked_field(
        either("auto", real(above=0)),
        "step of the finite differences; auto chooses it from scheme and dtype",
        ARTICLE_H,
        "H",
        GRADIENT,
    )

    steps: int = checked_field(whole(1), "number of optimizer steps", 1000, "N", TRAINING)
    batch_size: int = checked_field(whole(1), "number of examples in a batch", 100, "N", TRAINING)
    learning_rate: float = checked_field(real(above=0), "learning rate of the optimizer", 0.1, "RATE", TRAINING)
    optimizer: str = checked_field(choice(*OPTIMIZERS), "update rule", "sgd", None, TRAINING)
    momentum: float = checked_field(
        real(at_least=0, at_most=1), "coefficient of --optimizer momentum and nesterov", 0.9, "M", TRAINING
    )
    schedule: str = checked_field(
        choice(*SCHEDULES),
        "learning rate over the steps: constant, falling to zero along a cosine, or lowered in steps",
        "constant",
        None,
        TRAINING,
    )
    schedule_every: int = checked_field(
        whole(1), "for --schedule step: steps after which the learning rate is lowered", 300, "N", TRAINING
    )
    schedule_factor: float = checked_field(
        real(above=0), "for --schedule step: factor by which it is lowered", 0.1, "F", TRAINING
    )
    weight_decay: float = checked_field(
        real(at_least=0),
        "decoupled weight decay: each step shrinks the parameters by the learning rate times W",
        0.0,
        "W",
        TRAINING,
    )
    clip_norm: float | None = checked_field(
        optional(real(above=0)),
        "scale gradients with a larger norm down to this norm (default: never)",
        None,
        "NORM",
        TRAINING,
    )
    on_nonfinite: str = checked_field(
        choice("stop", "skip", "rollback"),
        "if a loss or gradient is not finite: stop, skip the step, or go back to the last checkpoint and halve the "
        "learning rate",
        "stop",
        None,
        TRAINING,
    )
    seed: int = checked_field(whole(0, 2**63 - 1), "seed of the random initial weights and batches", 0, "N", TRAINING)

    evaluate_every: int = checked_field(whole(1), "steps between evaluations on the test examples", 100, "N", KEEPING)
    checkpoint_every: int = checked_field(whole(1), "steps between checkpoints", 100, "N", KEEPING)
    keep_checkpoints: int = checked_field(whole(1), "number of checkpoints to keep", 3, "N", KEEPING)
    on_write_error: str = checked_field(
        choice("stop", "continue"),
        "if the run's folder cannot be written: stop, or continue training and try again",
        "stop",
        None,
        KEEPING,
    )

    workers: int | str = checked_field(
        WORKERS,
        "number of Ray workers; auto: as many as suit the machine; 2:8: two to eight, as nodes come and go; "
        "0: this process, without Ray",
        "auto",
        "N",
        MACHINE,
    )
    threads_per_worker: int | Literal["auto"] = checked_field(
        either("auto", whole(1, 10_000)), "number of threads of each worker", "auto", "N", MACHINE
    )
    address: str | None = checked_field(
        optional(ADDRESS),
        "a running Ray cluster: HOST:PORT, or auto for one on this machine (default: RAY_ADDRESS, else Ray is started "
        "here)",
        None,
        "ADDRESS",
        MACHINE,
    )

    resources: str | None = checked_field(
        optional(RESOURCES),
        "what each worker needs in addition to CPUs, as GPU=1 or spot=0.1: workers run only on nodes that have it",
        None,
        "NAME=N",
        MACHINE,
    )
    step_deadline: float | Literal["auto"] = checked_field(
        either("auto", real(above=0)),
        "seconds after which a worker that has not answered is given up; auto derives them from earlier answers",
        "auto",
        "S",
        MACHINE,
    )
    wait_for_workers: float = checked_field(
        real(at_least=0), "seconds to wait for workers if there are too few", 60.0, "S", MACHINE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers == 0 and self.address is not None:
            raise InputError(f"address is {self.address!r}, but workers is 0, which uses no Ray; leave one out.")

    @property
    def step_size(self) -> float:
        """``h`` as a number."""
        if self.h == "auto":
            return default_h(SCHEMES[self.scheme], self.dtype)
        return float(self.h)

    def identity(self) -> dict[str, Any]:
        """Fields that decide the bits of the parameters after a given step."""
        groups = {item.name: item.metadata["group"] for item in fields(self)}
        # on_nonfinite has no effect on finite steps.
        free = {name for name, group in groups.items() if group in (KEEPING, MACHINE)} | {"on_nonfinite"}
        return {name: value for name, value in self.to_dict().items() if name not in free}


def config_of(values: Mapping[str, Any], source: str) -> Config:
    """The configuration with these values from a TOML file; ``source`` names it in error messages."""
    return Config().with_changes(values, f"{source}: ")
