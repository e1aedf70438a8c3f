"""Scores of a network on a data set: loss, accuracy, scores by class, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.networks.dense import Network

__all__ = ["ClassScores", "Evaluation", "evaluate", "evaluation_table", "score"]


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; a ratio with denominator zero is 0."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """Scores of a network on some examples.

    Attributes:
        n_examples: Number of examples.
        loss: Mean loss.
        accuracy: Share of labels predicted correctly; None for real targets.
        classes: Scores of each class; empty for real targets.
        confusion: Counts by true label (rows) and predicted label (columns), shape ``(n_classes,
            n_classes)``; None for real targets.
    """

    n_examples: int
    loss: float
    accuracy: float | None = None
    classes: tuple[ClassScores, ...] = ()
    confusion: NDArray[np.int64] | None = None

    def average(self, what: str) -> float:
        """Unweighted mean over the classes (macro average) of ``precision``, ``recall`` or ``f1``."""
        return float(np.mean([getattr(scores, what) for scores in self.classes]))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``."""
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
    """Scores of a network on examples ``x``, as a data set holds them, and targets ``y``."""
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = network.outputs(params, x)
        loss = float(network.loss_function.values(outputs, y).mean(dtype=np.float64))
    if y.ndim != 1:
        return Evaluation(len(x), loss)
    accuracy, classes, confusion = score(y.astype(np.intp), outputs.argmax(axis=1), network.n_outputs)
    return Evaluation(len(x), loss, accuracy, classes, confusion)


def score(
    true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int
) -> tuple[float, tuple[ClassScores, ...], NDArray[np.int64]]:
    """Accuracy, scores of each class, and confusion matrix (true labels in rows) of predicted labels."""
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
    """An evaluation as a table of text."""
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
