"""How well labels were predicted, and how far real targets were missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.datasets.dataset import as_inputs
from distnum.networks.dense import Network

__all__ = ["ClassScores", "Evaluation", "evaluate", "evaluation_table", "score"]

_BLOCK = 1000


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; a ratio whose denominator is zero counts as zero."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """A network on some examples.

    Attributes:
        n_examples: how many.
        loss: the mean loss.
        accuracy: the share of labels predicted right; None for real targets.
        classes: scores by class.
        confusion: shape ``(n_classes, n_classes)``: rows are true labels, columns predicted ones.
    """

    n_examples: int
    loss: float
    accuracy: float | None = None
    classes: tuple[ClassScores, ...] = ()
    confusion: NDArray[np.int64] | None = None

    def average(self, what: str) -> float:
        """The unweighted mean over the classes (macro average) of ``precision``, ``recall`` or ``f1``."""
        return float(np.mean([getattr(scores, what) for scores in self.classes]))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``result.json``."""
        if self.confusion is None:
            return {"n_examples": self.n_examples, "loss": self.loss}
        return {
            "n_examples": self.n_examples,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_average": {what: self.average(what) for what in ("precision", "recall", "f1")},
            "classes": [vars(scores) for scores in self.classes],
            "confusion_matrix": self.confusion.tolist(),
        }


def evaluate(
    network: Network, params: NDArray[np.floating], x: NDArray[np.generic], y: NDArray[np.generic]
) -> Evaluation:
    """A network on examples ``x`` (as a data set holds them) with targets ``y``, a block at a time."""
    losses, labels = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(x), _BLOCK):
            inputs = as_inputs(x[start : start + _BLOCK], params.dtype)
            outputs = network.forward(params, inputs).outputs
            losses.append(network.loss_function.values(outputs, y[start : start + _BLOCK]))
            labels.append(outputs.argmax(axis=1))
    loss = float(np.concatenate(losses).mean(dtype=np.float64))
    if y.ndim != 1:
        return Evaluation(len(x), loss)
    accuracy, classes, confusion = score(y.astype(np.intp), np.concatenate(labels), network.n_outputs)
    return Evaluation(len(x), loss, accuracy, classes, confusion)


def score(
    true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int
) -> tuple[float, tuple[ClassScores, ...], NDArray[np.int64]]:
    """Accuracy, scores by class, and the confusion matrix of predicted labels."""
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (true, predicted), 1)
    right = np.diag(confusion)
    classes = []
    for label in range(n_classes):
        hits, n_true, n_predicted = int(right[label]), int(confusion[label].sum()), int(confusion[:, label].sum())
        precision = hits / n_predicted if n_predicted else 0.0
        recall = hits / n_true if n_true else 0.0
        f1 = 2 * hits / (n_true + n_predicted) if n_true + n_predicted else 0.0
        classes.append(ClassScores(label, precision, recall, f1, n_true))
    return float(right.sum() / max(1, len(true))), tuple(classes), confusion


def evaluation_table(evaluation: Evaluation) -> str:
    """An evaluation for people."""
    lines = [f"loss      {evaluation.loss:.4f}"]
    if evaluation.confusion is None:
        return lines[0]
    lines += [f"accuracy  {evaluation.accuracy:.4f}", "", "class    precision  recall      f1  examples"]
    for scores in evaluation.classes:
        lines.append(
            f"{scores.label:<8} {scores.precision:9.4f}  {scores.recall:6.4f}  {scores.f1:6.4f}  {scores.support:8,}"
        )
    averages = [evaluation.average(what) for what in ("precision", "recall", "f1")]
    lines.append(f"average  {averages[0]:9.4f}  {averages[1]:6.4f}  {averages[2]:6.4f}  {evaluation.n_examples:8,}")
    n_classes = len(evaluation.classes)
    if n_classes <= 20:
        width = max(5, len(str(int(evaluation.confusion.max()))) + 1)
        lines += ["", "rows: true class, columns: predicted"]
        lines.append("     " + "".join(f"{label:>{width}}" for label in range(n_classes)))
        for label, counts in enumerate(evaluation.confusion.tolist()):
            lines.append(f"{label:>5}" + "".join(f"{count or '.':>{width}}" for count in counts))
    return "\n".join(lines)
