"""What is trained and how: the job that a configuration, or the arguments of ``train``, describe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.datasets.dataset import Dataset
from distnum.differentiation.parameters import ParamsLayout
from distnum.networks.dense import Network
from distnum.networks.metrics import Evaluation, evaluate
from distnum.storage.checkpoints import State
from distnum.training.config import Config
from distnum.training.optimizers import Optimizer
from distnum.workers.work import Objective

__all__ = ["NETWORK_FIELDS", "Job", "log", "optimizer_of"]
log = logging.getLogger("distnum")

NETWORK_FIELDS = {"data", "hidden", "activation", "loss", "init", "init_std", "method"}
"""Fields of a configuration that mean nothing to a loss function."""


@dataclass(frozen=True)
class Job:
    """What is trained and how: all that decides the bits.

    Attributes:
        config: with ``data`` naming the data set that was really used.
        objective: what is differenced.
        batch_at: gives the batch of a step, counted from 1.
        initial: the state before the first step.
        network, dataset: None for a black box.
        layout: how a black box wants its parameters; None for a network.
        data_sha256: of the arrays that batches are drawn from; None where there are none.

    Raises:
        InputError: the objective cannot run on the threads that the configuration asks for.
    """

    config: Config
    objective: Objective
    batch_at: Callable[[int], Any]
    initial: State
    network: Network | None = None
    dataset: Dataset | None = None
    layout: ParamsLayout | None = None
    data_sha256: str | None = None

    def __post_init__(self) -> None:
        n_threads = self.config.threads_per_worker
        if n_threads not in (1, "auto") and not self.objective.thread_safe:
            raise InputError(
                f"threads_per_worker is {n_threads}, but whole loss functions are evaluated by one thread a worker; "
                "use more workers instead."
            )

    @property
    def optimizer(self) -> Optimizer:
        return optimizer_of(self.config)

    def evaluate(self, params: Array) -> Evaluation | None:
        """The network on the test examples; None for a black box."""
        if self.network is None or self.dataset is None:
            return None
        return evaluate(self.network, params, self.dataset.x_test, self.dataset.y_test)

    def named_params(self, params: Array) -> dict[str, Array]:
        """The parameters as arrays by name."""
        if self.network is not None:
            return self.network.unpack(params)
        assert self.layout is not None
        view = self.layout.view(params)
        return view if self.layout.names else {"params": view}

    def folder_config(self) -> dict[str, Any]:
        """What ``config.toml`` of the run says."""
        if self.network is not None:
            return self.config.to_dict()
        kept = {name: value for name, value in self.config.to_dict().items() if name not in NETWORK_FIELDS}
        return {"objective": "python"} | kept

    def identity(self) -> dict[str, Any]:
        """What must not change when a run is continued; of the data their content, not their place."""
        names = {"objective", *self.config.identity()} - {"data"}
        fixed = {name: value for name, value in self.folder_config().items() if name in names}
        return fixed if self.data_sha256 is None else fixed | {"data_sha256": self.data_sha256}


def optimizer_of(config: Config) -> Optimizer:
    return Optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)
