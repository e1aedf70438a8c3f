"""What workers of one machine find for each other has the bits that each would find alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.ray_pool.shared_memory import Peers, SharedBlocks, SharedVectors
from distnum.workers.work import whole_gradient

N_EXAMPLES = 400
DTYPE = np.dtype(np.float64)
OBJECTIVE = Propagation(Network((784, 9, 7, 10)))
PARAMS = OBJECTIVE.network.initial_params()
BATCH = batch_at(load_data(), 0, N_EXAMPLES, np.float64, 1)
SHAPE = OBJECTIVE.shareable(BATCH, DTYPE)


@pytest.fixture
def board(tmp_path: Path) -> SharedBlocks:
    made = SharedBlocks.create(tmp_path, *SHAPE)
    if made is None:
        pytest.skip("this kind of processor does not show writes in their order")
    return made


def gradient(others: Peers | None, params: np.ndarray = PARAMS) -> np.ndarray:
    return whole_gradient(OBJECTIVE, params, BATCH, 1, others)


def test_several_at_once_get_the_bits_of_one_alone(board: SharedBlocks) -> None:
    expected = gradient(None)
    boards = [board, *(SharedBlocks(board.file, *SHAPE) for _ in range(2))]
    with ThreadPoolExecutor(3) as threads:
        for turn in range(1, 6):
            others = [Peers(one, turn, number / 3) for number, one in enumerate(boards)]
            for found in threads.map(gradient, others):
                np.testing.assert_array_equal(found, expected)
    # All blocks were found, in both places.
    assert (board._flags[:, 1] >= 4).all()


def test_what_others_have_found_is_taken_over(board: SharedBlocks) -> None:
    gradient(Peers(board, 1, 0.0))
    board.memory(1).view(DTYPE)[:9] += 1  # which nobody would find
    assert not np.array_equal(gradient(Peers(board, 1, 0.0)), gradient(None))
    # It is of that turn alone, though the place is used again.
    np.testing.assert_array_equal(gradient(Peers(board, 3, 0.0)), gradient(None))


def test_who_has_taken_a_block_and_does_not_come_is_not_waited_for(board: SharedBlocks) -> None:
    for number in range(1, SHAPE[0]):
        assert board.take(1, number)
        assert not board.take(1, number)
    began = perf_counter()
    np.testing.assert_array_equal(gradient(Peers(board, 1, 0.5)), gradient(None))
    assert perf_counter() - began < 20
    # It comes late, in the same turn, with the same bits.
    np.testing.assert_array_equal(gradient(Peers(board, 1, 0.0)), gradient(None))


def test_a_batch_of_another_size_is_passed_forward_alone(board: SharedBlocks) -> None:
    x, y = BATCH
    point = OBJECTIVE.at(PARAMS, (x[:150], y[:150]), 1, Peers(board, 1, 0.0))
    assert point.loss == OBJECTIVE.at(PARAMS, (x[:150], y[:150])).loss
    assert not board._flags.any()


def test_what_is_shared_needs_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert SharedBlocks.create(tmp_path, *SHAPE) is None
    assert SharedVectors.create(tmp_path, DTYPE, 10) is None
    assert not list(tmp_path.iterdir())


def test_there_is_no_board_where_it_is_of_no_use(tmp_path: Path) -> None:
    assert SharedBlocks.create(None, *SHAPE) is None
    assert SharedBlocks.create(tmp_path, 1, 10) is None
    assert SharedBlocks.create(tmp_path, 9, 10**9) is None
