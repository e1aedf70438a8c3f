"""The forward pass of propagation, by blocks of examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distnum.networks.dense import Network
from distnum.networks.propagation import forward
from distnum.networks.propagation.forward import forward_pass, shared_blocks
from tests.networks.propagation.cases import network_params
from tests.reference import random_batch

pytestmark = pytest.mark.usefixtures("plain_python")


@pytest.mark.parametrize("share_zero", [0.2, 0.9], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_the_plain_forward_pass(dtype: type, share_zero: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_BLOCK", 4)
    network = Network((9, 6, 5, 3), "leaky_relu:0.3")
    params, (x, _) = network_params(network, dtype=dtype), random_batch(network, 10, share_zero=share_zero)
    x = x.astype(dtype)
    passed, expected = forward_pass(network, params, x, 1, None), network.forward(params, x)
    for number, (z, a) in enumerate(zip(expected.inputs, expected.preactivations, strict=True)):
        tolerance = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(passed.inputs[number][:-1].T, z, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(passed.inputs[number][-1], 1)
        np.testing.assert_allclose(passed.preactivations[number], a, rtol=tolerance, atol=tolerance)
        largest = np.maximum(1, np.abs(passed.inputs[number]).max(axis=0))
        np.testing.assert_array_equal(passed.farthest[number], largest)
        counts = [np.count_nonzero(passed.inputs[number][:, i : i + 4], axis=1) for i in (0, 4, 8)]
        np.testing.assert_array_equal(passed.counts[number], counts)


class _Peers:
    """One worker that shares memory with nobody."""

    def __init__(self, n_blocks: int, n_bytes: int) -> None:
        self.shape, self.blocks = (n_blocks, n_bytes), []
        self.memory = np.zeros(n_bytes, np.uint8)

    def fits(self, n_blocks: int, n_bytes: int) -> bool:
        return self.shape == (n_blocks, n_bytes)

    def compute(self, n_blocks: int, compute: Callable[[int], None]) -> None:
        for block in reversed(range(n_blocks)):
            self.blocks.append(block)
            compute(block)


def test_peers_compute_the_blocks_in_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_BLOCK", 4)
    network = Network((9, 6, 3), "tanh")
    params, (x, _) = network_params(network), random_batch(network, 10)
    peers = _Peers(*shared_blocks(network, 10, np.float64))
    passed, expected = forward_pass(network, params, x, 1, peers), forward_pass(network, params, x, 1, None)
    assert peers.blocks == [2, 1, 0]
    for of_peers, alone in zip(vars(passed).values(), vars(expected).values(), strict=True):
        for one, other in zip(of_peers, alone, strict=True):
            assert np.shares_memory(one, peers.memory)
            np.testing.assert_array_equal(one, other)


def test_peers_with_other_memory_are_not_used() -> None:
    network = Network((9, 6, 3), "tanh")
    params, (x, _) = network_params(network), random_batch(network, 10)
    peers = _Peers(1, 64)
    forward_pass(network, params, x, 1, peers)
    assert peers.blocks == []
