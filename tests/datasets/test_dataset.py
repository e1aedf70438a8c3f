"""Data sets of arrays: what they refuse, and the batches drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distnum import Dataset
from distnum.datasets.dataset import batch_at, batch_of_rows
from tests.datasets.helpers import refusal, small_arrays, with_nan

# --- arrays -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "has_labels", "n_outputs"),
    [
        (np.array([0, 4, 1], np.int64), True, 5),
        (np.array([[0], [4], [1]], np.int32), True, 5),
        (np.array([0.0, 4.0, 1.0]), True, 5),
        (np.eye(3), False, 3),
        (np.array([[0.5], [1.5], [2.5]]), False, 1),
    ],
    ids=["labels", "a column of labels", "whole floats", "one-hot floats", "a column of reals"],
)
def test_targets_are_labels_or_real_numbers(y: NDArray[Any], has_labels: bool, n_outputs: int) -> None:
    x = np.ones((3, 2))
    dataset = Dataset(x, y, x, y)
    assert (dataset.has_labels, dataset.n_outputs) == (has_labels, n_outputs)
    np.testing.assert_array_equal(dataset.y_train, y.ravel() if has_labels else y)


def test_labels_of_the_test_examples_count_as_classes() -> None:
    x = np.ones((2, 2))
    assert Dataset(x, np.array([0, 1]), x, np.array([0, 6])).n_outputs == 7


BAD_ARRAYS: list[tuple[str, NDArray[Any], str]] = [
    ("x_train", np.zeros(6), "shape (6,)"),
    ("x_test", np.zeros((0, 4, 3)), "at least one"),
    ("x_train", np.zeros((6, 4, 3), complex), "complex128"),
    ("x_train", np.zeros((6, 4, 3), bool), "bool"),
    ("x_train", np.full((6, 4, 3), "a"), "<U1"),
    ("x_train", np.full((6, 4, 3), None), "object"),
    ("x_train", np.zeros((6, 4, 3), "M8[s]"), "datetime64[s]"),
    ("x_train", with_nan((6, 4, 3)), "in row 5"),
    ("x_test", with_nan((3, 4, 3), -np.inf), "in row 2"),
    ("x_test", np.zeros((3, 3, 4)), "(3, 4)"),
    ("y_train", np.zeros(5, int), "5"),
    ("y_test", np.zeros((0,), int), "shape (0,)"),
    ("y_test", np.zeros((3, 0)), "shape (3, 0)"),
    ("y_test", np.zeros((3, 1, 1), int), "shape (3, 1, 1)"),
    ("y_train", np.array([0, 1, 2, 0, 1, -2]), "-2"),
    ("y_train", np.array([[0], [1], [2], [0], [1], [-3]]), "-3"),
    ("y_test", np.array([0, 1, 65536]), "65536"),
    ("y_test", np.array([0, 2**64 - 1, 1], np.uint64), str(2**64 - 1)),
    ("y_test", np.array([0.0, 0.5, 1.0]), "whole numbers"),
    ("y_test", np.array([0.0, np.nan, 1.0]), "whole numbers"),
    ("y_test", np.array(["a", "b", "c"]), "whole numbers"),
    ("y_test", np.array([True, False, True]), "whole numbers"),
    ("y_test", np.zeros((3, 2)), "(2,)"),
]


@pytest.mark.parametrize(("field", "array", "words"), BAD_ARRAYS)
def test_arrays_that_cannot_be_used_are_refused_by_field(field: str, array: NDArray[Any], words: str) -> None:
    message = refusal(lambda: Dataset(**(small_arrays() | {field: array}), name="mine"))
    assert message.startswith("mine: ")
    assert field in message
    assert words in message


def test_targets_that_are_not_finite_are_refused() -> None:
    arrays = small_arrays() | {"y_train": np.zeros((6, 2)), "y_test": with_nan((3, 2), np.inf)}
    assert "y_test" in refusal(lambda: Dataset(**arrays))


def test_ragged_lists_are_refused_by_field() -> None:
    ragged: Any = [[1, 2], [3]]
    assert "x_train" in refusal(lambda: Dataset(ragged, np.zeros(2, int), np.zeros((1, 2)), np.zeros(1, int)))


def test_a_huge_whole_float_is_refused_as_a_label() -> None:
    message = refusal(lambda: Dataset(**(small_arrays() | {"y_test": np.array([0.0, 1e300, 1.0])})))
    assert "1e+300" in message or str(int(1e300)) in message


# --- batches ------------------------------------------------------------------------


@pytest.fixture
def rows() -> Dataset:
    """200 examples, each with its own number as its only input and as its label."""
    x, y = np.arange(200.0)[:, None], np.arange(200)
    return Dataset(x, y, x, y)


def test_a_batch_depends_only_on_seed_and_step(rows: Dataset) -> None:
    forwards = {step: batch_at(rows, 5, 32, np.float64, step).x.tobytes() for step in range(1, 20)}
    np.random.seed(0)
    batch_at(rows, 6, 7, np.float32, 3)
    for step in reversed(range(1, 20)):
        assert batch_at(rows, 5, 32, np.float64, step).x.tobytes() == forwards[step]
    assert len(set(forwards.values())) == len(forwards)


def test_another_seed_gives_other_batches(rows: Dataset) -> None:
    batches = {batch_at(rows, seed, 32, np.float64, 1).x.tobytes() for seed in (0, 1, 2, 2**32, 2**63 - 1)}
    assert len(batches) == 5


@pytest.mark.parametrize("size", [1, 32, 200])
def test_a_batch_holds_different_examples_with_their_targets(rows: Dataset, size: int) -> None:
    batch = batch_at(rows, 0, size, np.float64, 1)
    assert len(set(batch.y.tolist())) == len(batch.y) == size
    np.testing.assert_array_equal(batch.x[:, 0], batch.y)


def test_batches_of_arrays_and_of_a_data_set_have_the_same_rows(rows: Dataset) -> None:
    x, y = batch_of_rows((rows.x_train, rows.y_train), 3, 16, 8)
    expected = batch_at(rows, 3, 16, np.float64, 8)
    np.testing.assert_array_equal(x, expected.x)
    np.testing.assert_array_equal(y, expected.y)
    np.testing.assert_array_equal(batch_of_rows(rows.y_train, 3, 16, 8), expected.y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_are_scaled_in_the_requested_dtype(dtype: type[np.floating]) -> None:
    x = np.arange(256, dtype=np.uint8).reshape(64, 2, 2)
    dataset = Dataset(x, np.arange(64), x, np.arange(64))
    batch = batch_at(dataset, 0, 64, dtype, 1)
    assert batch.x.dtype == dtype
    assert batch.x.shape == (64, 4)
    assert (batch.x.min(), batch.x.max()) == (0, 1)
    expected = x.reshape(64, 4).astype(dtype) / dtype(255)
    np.testing.assert_array_equal(batch.x, expected[batch.y])
    np.testing.assert_array_equal(dataset.test(slice(3, 5), dtype).x, expected[3:5])


def test_numbers_other_than_bytes_are_not_scaled() -> None:
    x = np.array([[300, -7], [255, 0]], np.int16)
    dataset = Dataset(x, np.arange(2), x, np.arange(2))
    np.testing.assert_array_equal(dataset.train().x, x)
