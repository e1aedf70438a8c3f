"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.machine import machine_facts, version_facts
from distnum.networks.dense import Network
from distnum.networks.metrics import Evaluation
from distnum.training.config import Config
from distnum.training.subject import Subject

__all__ = ["TrainResult"]


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        completed: Whether all steps were done; False after an interruption.
        params: Trained parameters, in the form in which they were given (a network's: flat).
        named_params: The same as arrays by name: ``W1``, ``b1``, ...
        metrics: Rows of ``metrics.jsonl``.
        test: Evaluation on the test examples; None for a Python function.
        subject: The trained network or function.
        params_sha256: Checksum of the parameters' bytes.
        seconds: ``start`` of the workers, ``steps`` altogether, ``total`` of this call.
        folder: Folder or URI of the run, or None.
        config: Configuration of the run.
        events: Rows of ``events.jsonl`` of this call.
        kept: Whether the model and the result are written to ``folder``, if there is one. Only False
            with ``on_write_error = "continue"``.
    """

    completed: bool
    params: Any
    named_params: dict[str, Array] = field(repr=False)
    metrics: list[dict[str, Any]] = field(repr=False)
    test: Evaluation | None = field(repr=False)
    subject: Subject = field(repr=False)
    params_sha256: str
    seconds: dict[str, float]
    folder: Path | str | None
    config: Config = field(repr=False)
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)
    kept: bool = True

    @property
    def network(self) -> Network | None:
        """The trained network; None for a Python function."""
        return self.subject.network

    @property
    def loss(self) -> float:
        """Loss of the last step's batch."""
        return float(self.metrics[-1]["loss"]) if self.metrics else float("nan")

    @property
    def test_accuracy(self) -> float | None:
        """Fraction of test examples with the right label; None without labels."""
        return self.test.accuracy if self.test is not None else None

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """Labels of examples, shape ``(n,)``; ``x`` as the data set holds them (bytes are scaled).

        Raises:
            InputError: The run trained a Python function.
        """
        return self.subject.predict(self.params, x)

    def to_dict(self) -> dict[str, Any]:
        """Content of ``result.json``."""
        test = self.test.to_dict() if self.test is not None else None
        return {
            "completed": self.completed,
            "steps": self.metrics[-1]["step"] if self.metrics else 0,
            "loss": self.loss,
            "test_accuracy": self.test_accuracy,
            "test_loss": self.test.loss if self.test is not None else None,
            "params_sha256": self.params_sha256,
            "n_params": sum(array.size for array in self.named_params.values()),
            "seconds": self.seconds,
            "test": test,
            "config": self.subject.config_values(self.config),
            "versions": version_facts(),
            "machine": machine_facts(),
        }
