"""What workers of one machine find for each other has the bits that each would find alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.ray_pool.shared_memory import BlockPeers, SharedBlocks, SharedVectors
from distnum.workers.tiles import all_tiles

N_EXAMPLES = 400
DTYPE = np.dtype(np.float64)
OBJECTIVE = Propagation(Network((784, 9, 7, 10)))
PARAMS = OBJECTIVE.network.initial_params()
BATCH = batch_at(load_data(), 0, N_EXAMPLES, np.float64, 1)
SHAPE = OBJECTIVE.shared_blocks(BATCH, DTYPE)


@pytest.fixture
def blocks(tmp_path: Path) -> SharedBlocks:
    made = SharedBlocks.create(tmp_path, *SHAPE)
    if made is None:
        pytest.skip("this kind of processor does not show writes in their order")
    return made


def gradient(peers: BlockPeers | None) -> np.ndarray:
    if peers is None:
        return whole_gradient(OBJECTIVE, PARAMS, BATCH)
    grad = np.empty_like(PARAMS)
    OBJECTIVE.at_with_peers(PARAMS, BATCH, 1, peers).compute(all_tiles(OBJECTIVE.tiles), grad)
    return grad


def test_concurrent_workers_get_the_bits_of_one_worker(blocks: SharedBlocks) -> None:
    expected = gradient(None)
    files = [blocks, *(SharedBlocks(blocks.file, *SHAPE) for _ in range(2))]
    with ThreadPoolExecutor(3) as threads:
        for turn in range(1, 6):
            others = [BlockPeers(one, turn, number / 3) for number, one in enumerate(files)]
            for grad in threads.map(gradient, others):
                np.testing.assert_array_equal(grad, expected)
    # All blocks were computed, in both buffers.
    assert (blocks._flags[:, 1] >= 4).all()


def test_a_block_of_a_peer_is_used(blocks: SharedBlocks) -> None:
    gradient(BlockPeers(blocks, 1, 0.0))
    blocks.memory(1).view(DTYPE)[:9] += 1  # bits that no worker computes
    assert not np.array_equal(gradient(BlockPeers(blocks, 1, 0.0)), gradient(None))
    # It holds for that turn alone, though the buffer is used again.
    np.testing.assert_array_equal(gradient(BlockPeers(blocks, 3, 0.0)), gradient(None))


def test_a_peer_that_does_not_finish_a_block_is_not_waited_for(blocks: SharedBlocks) -> None:
    for number in range(1, SHAPE[0]):
        assert blocks.take(1, number)
        assert not blocks.take(1, number)
    began = perf_counter()
    np.testing.assert_array_equal(gradient(BlockPeers(blocks, 1, 0.5)), gradient(None))
    assert perf_counter() - began < 20
    # A worker that is late in the same turn gets the same bits.
    np.testing.assert_array_equal(gradient(BlockPeers(blocks, 1, 0.0)), gradient(None))


def test_a_batch_of_another_size_is_not_shared(blocks: SharedBlocks) -> None:
    x, y = BATCH
    point = OBJECTIVE.at_with_peers(PARAMS, (x[:150], y[:150]), 1, BlockPeers(blocks, 1, 0.0))
    assert point.value == OBJECTIVE.at(PARAMS, (x[:150], y[:150])).value
    assert not blocks._flags.any()


def test_shared_files_need_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert SharedBlocks.create(tmp_path, *SHAPE) is None
    assert SharedVectors.create(tmp_path, DTYPE, 10, (10,)) is None
    assert not list(tmp_path.iterdir())


def test_no_blocks_are_shared_where_it_does_not_help(tmp_path: Path) -> None:
    assert SharedBlocks.create(None, *SHAPE) is None
    assert SharedBlocks.create(tmp_path, 1, 10) is None
    assert SharedBlocks.create(tmp_path, 9, 10**9) is None
