"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.common.machine import machine_facts, version_facts
from distnum.networks.dense import Network
from distnum.networks.metrics import Evaluation
from distnum.training.config import Config

__all__ = ["TrainResult"]


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        completed: whether all steps were done; False after an interruption.
        params: the trained parameters, in the form in which they were given (a network's: flat).
        named_params: the same as arrays by name: ``W1``, ``b1``, ...
        metrics: the rows of ``metrics.jsonl``.
        test: the evaluation on the test examples; None for a black box.
        network: the trained network; None for a black box.
        params_sha256: over the parameters' bytes.
        seconds: ``start`` of the workers, ``steps`` altogether, ``total`` of this call.
        folder: where the run was kept, a folder or a URI, or None.
        events: what happened beside the steps: the rows of ``events.jsonl`` of this call.
    """

    completed: bool
    params: Any
    named_params: dict[str, Array] = field(repr=False)
    metrics: list[dict[str, Any]] = field(repr=False)
    test: Evaluation | None = field(repr=False)
    network: Network | None
    params_sha256: str
    seconds: dict[str, float]
    folder: Path | str | None
    config: Config = field(repr=False)
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def loss(self) -> float:
        """The loss of the last step's batch."""
        return float(self.metrics[-1]["loss"]) if self.metrics else float("nan")

    @property
    def test_accuracy(self) -> float | None:
        """The share of test examples labelled right."""
        return self.test.accuracy if self.test is not None else None

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """The labels of examples as a data set holds them (bytes are scaled)."""
        from distnum.datasets.dataset import as_inputs

        if self.network is None:
            raise InputError("predict needs a network; this run trained a Python function.")
        return self.network.predict(self.params, as_inputs(np.asarray(x), self.params.dtype))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``result.json``."""
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
            "config": self.config.to_dict(),
            "versions": version_facts(),
            "machine": machine_facts(),
        }
