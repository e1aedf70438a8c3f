"""Threads of one gradient: they do not change the bits, and errors reach the caller."""

from __future__ import annotations

import os

import numpy as np
import pytest

from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.networks.propagation.threads import Portion, follow, on_threads
from tests.forks import in_copy

CASES = [
    ("relu", (60,), 1e-4),
    ("tanh", (9, 9), 1e-3),
    pytest.param("tanh", (60,), 1e-4, marks=pytest.mark.slow),
    pytest.param("relu", (40, 40), 1e-2, marks=pytest.mark.slow),
    pytest.param("step", (60,), 0.1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("activation", "hidden", "h"), CASES)
def test_bits_do_not_depend_on_the_threads(activation: str, hidden: tuple[int, ...], h: float) -> None:
    network = Network((784, *hidden, 10), activation)
    params, batch = network.initial_params(), batch_at(load_data(), 0, 300, np.float64, 1)
    objective = Propagation(network, "central", h)
    alone = whole_gradient(objective, params, batch)
    for n_threads in (2, 3):
        gradient = whole_gradient(objective, params, batch, n_threads)
        np.testing.assert_array_equal(gradient, alone, err_msg=f"{n_threads} threads")


class _Recorder:
    """Routes that record the rows that they add."""

    def __init__(self, block: int, calls: list[tuple[int, int]]) -> None:
        self._block, self._calls = block, calls

    def add(self, rows: np.ndarray, total: np.ndarray) -> None:
        self._calls.append((int(rows[0]), self._block))
        total += 10.0**self._block * rows[:, None]


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_every_part_goes_through_all_blocks_in_their_order(n_threads: int) -> None:
    calls: list[tuple[int, int]] = []
    parts = [np.array([0, 1]), np.array([2]), np.array([3, 4, 5])]
    blocks = [lambda block=block: _Recorder(block, calls) for block in range(5)]
    portion = Portion(1, 2, np.zeros((6, 8)), parts, blocks)
    seconds = np.zeros(3)
    follow([portion], n_threads, seconds)
    for part in parts:
        assert [block for first, block in calls if first == part[0]] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(portion.total, 11111.0 * np.arange(6.0)[:, None] * np.ones(8))
    assert seconds[1] > 0
    assert seconds[0] == seconds[2] == 0


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_in_a_block_reaches_the_caller(n_threads: int) -> None:
    def fail() -> None:
        raise ZeroDivisionError("in a block")

    portion = Portion(0, 2, np.zeros((1, 8)), [np.array([0])], [fail])
    with pytest.raises(ZeroDivisionError, match="in a block"):
        follow([portion], n_threads, np.zeros(1))


def test_results_of_threads_are_in_the_order_of_the_items() -> None:
    assert on_threads(3, lambda item: item * item, range(20)) == [item * item for item in range(20)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_copy_of_the_process_has_threads_of_its_own() -> None:
    def square_all() -> list[int]:
        return on_threads(3, lambda item: item * item, range(5))

    assert square_all() == [0, 1, 4, 9, 16]
    assert in_copy(square_all) == "[0, 1, 4, 9, 16]"
