"""A job: what is trained and how; all that decides the bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distnum.common.errors import InputError
from distnum.differentiation.objective import Objective
from distnum.storage.checkpoints import State
from distnum.training.config import Config
from distnum.training.domain import Domain
from distnum.training.optimizers import Optimizer
from distnum.training.subject import FunctionSubject, Subject
from distnum.workers.pool import BatchAt

__all__ = ["Job", "optimizer_of"]


@dataclass(frozen=True)
class Job:
    """What is trained and how: all that decides the bits.

    Attributes:
        config: Configuration; ``data`` names the data set that is really used.
        subject: The network or function.
        objective: Its loss, as work for a pool; for a function, what ``scale`` measures.
        batch_at: Returns the batch of a step, counted from 1.
        initial: State before the first step.
        data_sha256: Checksum of the arrays that batches are drawn from; None if there are none.
        domain: Where the parameters may be; None for everywhere.

    Raises:
        InputError: The objective cannot use the threads that the configuration asks for.
    """

    config: Config
    subject: Subject
    objective: Objective
    batch_at: BatchAt
    initial: State
    data_sha256: str | None = None
    domain: Domain | None = None

    def __post_init__(self) -> None:
        n_threads = self.config.threads_per_worker
        if n_threads not in (1, "auto") and not self.objective.thread_safe:
            raise InputError(
                f"threads_per_worker is {n_threads}, but whole loss functions are evaluated by one thread a worker; "
                "use more workers instead."
            )

    @property
    def n_evaluations(self) -> int:
        """Number of losses evaluated in a step, unless steps of differences are searched."""
        subject = self.subject
        return subject.request.n_evaluations if isinstance(subject, FunctionSubject) else self.objective.n_evaluations

    @property
    def own_workers(self) -> Any:
        """The user's own workers: an ``Evaluator``, an executor or a map; None if the configuration says where."""
        workers = self.subject.request.workers if isinstance(self.subject, FunctionSubject) else 0
        return None if isinstance(workers, int) else workers

    @property
    def optimizer(self) -> Optimizer:
        """The update rule of the configuration."""
        return optimizer_of(self.config)

    def folder_config(self) -> dict[str, Any]:
        """Values for ``config.toml`` of the run."""
        return self.subject.config_values(self.config)

    def identity(self) -> dict[str, Any]:
        """What must stay the same when a run is continued; of the data its content, not its location."""
        names = {"objective", *self.config.identity()} - {"data"}
        fixed = {name: value for name, value in self.folder_config().items() if name in names}
        fixed |= self.subject.identity()
        return fixed if self.data_sha256 is None else fixed | {"data_sha256": self.data_sha256}


def optimizer_of(config: Config) -> Optimizer:
    """The update rule that a configuration describes."""
    return Optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)
