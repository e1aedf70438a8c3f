"""Scores compared with a hand-made confusion matrix; evaluation of labels and of real targets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distnum import Network
from distnum.networks.metrics import evaluate, score

#                0  0  0  1  1  3
TRUE = np.array([0, 0, 0, 1, 1, 3])
PREDICTED = np.array([0, 0, 1, 1, 2, 0])


def test_scores_are_those_of_a_confusion_matrix_made_by_hand() -> None:
    """Class 2 is predicted but never true, class 3 true but never predicted, class 4 neither."""
    accuracy, classes, confusion = score(TRUE, PREDICTED, 5)
    assert confusion.tolist() == [
        [2, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert accuracy == 0.5
    assert [scores.label for scores in classes] == [0, 1, 2, 3, 4]
    assert [scores.precision for scores in classes] == pytest.approx([2 / 3, 1 / 2, 0, 0, 0])
    assert [scores.recall for scores in classes] == pytest.approx([2 / 3, 1 / 2, 0, 0, 0])
    assert [scores.f1 for scores in classes] == pytest.approx([2 / 3, 1 / 2, 0, 0, 0])
    assert [scores.support for scores in classes] == [3, 2, 0, 1, 0]


def test_precision_and_recall_are_not_exchanged() -> None:
    _, classes, _ = score(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 2)
    assert [scores.precision for scores in classes] == pytest.approx([1, 1 / 3])
    assert [scores.recall for scores in classes] == pytest.approx([1 / 3, 1])
    assert [scores.f1 for scores in classes] == pytest.approx([1 / 2, 1 / 2])


def test_counts_of_random_labels_are_those_of_counting_one_by_one() -> None:
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 7, (2, 500))
    accuracy, classes, confusion = score(true, predicted, 7)
    pairs = list(zip(true.tolist(), predicted.tolist(), strict=True))
    assert accuracy == sum(t == p for t, p in pairs) / 500
    assert confusion.tolist() == [[pairs.count((t, p)) for p in range(7)] for t in range(7)]
    for scores in classes:
        harmonic = 2 * scores.precision * scores.recall / (scores.precision + scores.recall)
        assert scores.f1 == pytest.approx(harmonic)


# --- evaluation ---------------------------------------------------------------------

# Outputs are the inputs themselves.
MIRROR = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])


def test_the_evaluation_of_labels_is_the_one_computed_by_hand() -> None:
    x, y = np.array([[0.0, 0.0], [1.0, 3.0], [5.0, 4.0]]), np.array([1, 1, 1], np.uint8)
    evaluation = evaluate(Network((2, 2)), MIRROR, x, y)
    # With equal outputs the first label is predicted.
    assert evaluation.confusion is not None
    assert evaluation.confusion.tolist() == [[0, 0], [2, 1]]
    assert evaluation.accuracy == pytest.approx(1 / 3)
    assert evaluation.loss == pytest.approx(np.mean([np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(1))]))
    assert evaluation.n_examples == 3
    assert evaluation.average("recall") == pytest.approx(1 / 6)


def test_bytes_are_scaled_before_they_are_evaluated() -> None:
    x, y = np.array([[0, 255], [51, 0]], np.uint8), np.array([[0.0, 1.0], [0.2, 0.0]])
    network = Network((2, 2), loss="mean_squared_error")
    assert evaluate(network, MIRROR, x, y).loss == pytest.approx(0, abs=1e-30)


def test_real_targets_have_a_loss_and_no_labels() -> None:
    x, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 1.0], [0.0, 4.0]])
    evaluation = evaluate(Network((2, 2), loss="mean_squared_error"), MIRROR, x, y)
    assert evaluation.loss == pytest.approx((1 / 2 + 9 / 2) / 2)
    assert (evaluation.accuracy, evaluation.classes, evaluation.confusion) == (None, (), None)
    assert evaluation.to_dict() == {"n_examples": 2, "loss": evaluation.loss}


def test_labels_with_a_squared_loss_are_one_hot_rows_and_have_an_accuracy() -> None:
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1])
    evaluation = evaluate(Network((2, 2), loss="mean_squared_error"), MIRROR, x, y)
    assert evaluation.loss == pytest.approx(1 / 2)
    assert evaluation.accuracy == 1 / 2


def test_a_label_without_examples_has_a_row() -> None:
    evaluation = evaluate(Network((2, 2)), MIRROR, np.eye(2)[:1], np.array([0]))
    assert [scores.support for scores in evaluation.classes] == [1, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_evaluation_in_blocks_is_that_of_all_examples_at_once(dtype: str) -> None:
    generator = np.random.default_rng(1)
    network = Network((5, 6, 3))
    params = network.initial_params(2, dtype=dtype)
    x, y = generator.standard_normal((2501, 5)).astype(dtype), generator.integers(0, 3, 2501)
    evaluation = evaluate(network, params, x, y)
    assert evaluation.confusion is not None
    assert evaluation.n_examples == evaluation.confusion.sum() == 2501
    assert evaluation.loss == pytest.approx(float(network.loss(params, (x, y))), rel=1e-5)
    assert evaluation.accuracy == network.accuracy(params, x, y)


def test_an_evaluation_is_the_same_after_json() -> None:
    evaluation = evaluate(Network((2, 2)), MIRROR, np.eye(2, dtype=np.float32), np.array([0, 1], np.uint8))
    content = evaluation.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["confusion_matrix"] == [[1, 0], [0, 1]]
    assert content["macro_average"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
