"""The forward pass that all changes start from, by blocks of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.networks.dense import Network
from distnum.networks.propagation.threads import on_threads
from distnum.workers.work import Peers

__all__ = ["Forward", "forward_pass", "shared_blocks"]

# Examples that one thread passes forward together.
_BLOCK = 128

# Share of nonzero inputs below which a product that skips zeros is faster than a dense one.
_SPARSE = 0.3

_CACHE_LINE_BYTES = 64
_Parts = Sequence[tuple[tuple[int, ...], DTypeLike]]


@dataclass(frozen=True)
class Forward:
    """Inputs and pre-activations of a forward pass, one array for each layer.

    Attributes:
        inputs: Inputs and a row of ones for the bias, shape ``(n_in + 1, n_examples)``.
        preactivations: Shape ``(n_examples, n_out)``.
        farthest: Largest absolute input of each example, at least the bias's 1, shape ``(n_examples,)``.
        counts: Number of examples of each block in which each input is not zero, ``(n_blocks, n_in + 1)``.
    """

    inputs: list[Array]
    preactivations: list[Array]
    farthest: list[Array]
    counts: list[NDArray[np.int64]]


def forward_pass(network: Network, params: Array, x: Array, n_threads: int, peers: Peers | None) -> Forward:
    """Pass a batch through the network.

    Args:
        network: The network.
        params: Shape ``(n_params,)``, read-only.
        x: Shape ``(n_examples, n_inputs)``, row-major, in the dtype of ``params``.
        n_threads: Number of threads that share the blocks.
        peers: Workers of this machine that share the blocks instead, if ``n_threads`` is 1 and their
            memory fits.
    """
    from distnum.networks.propagation import passes

    # Blocks do not depend on the number of threads: how a matrix product rounds may depend on its shape.
    blocks = _blocks(len(x))
    if peers is not None and (n_threads > 1 or not peers.fits(*shared_blocks(network, len(x), params.dtype))):
        peers = None
    arrays = _carve(None if peers is None else peers.memory, _parts(network, len(x), params.dtype))
    n = len(network.layers)
    passed = Forward(arrays[:n], arrays[n : 2 * n], arrays[2 * n : 3 * n], arrays[3 * n :])
    sparse = np.count_nonzero(x[blocks[0]]) < _SPARSE * x[blocks[0]].size

    def forward(index: int) -> None:
        """Pass a block of examples. Peers may read at any time, so every number is written once."""
        block = blocks[index]
        z = x[block]
        for number, layer in enumerate(network.layers):
            rows = layer.rows(params)
            z = z.view()
            z.flags.writeable = False  # in all layers: read-only arrays are compiled for separately
            farthest, counts = np.empty(len(z), z.dtype), np.empty(layer.n_rows, np.int64)
            passes.transpose_inputs(z, passed.inputs[number], block.start, farthest, counts)
            passed.farthest[number][block], passed.counts[number][index] = farthest, counts
            if number == 0 and sparse:
                a = np.empty((len(z), layer.n_out), z.dtype)
                passes.sparse_product(z, rows[:-1], rows[-1], a)
            else:
                a = z @ rows[:-1]
                a += rows[-1]
            passed.preactivations[number][block] = a
            z = network.activation.value(a)

    if peers is None:
        on_threads(n_threads, forward, range(len(blocks)))
    else:
        peers.compute(len(blocks), forward)
    return passed


def shared_blocks(network: Network, n_examples: int, dtype: DTypeLike) -> tuple[int, int]:
    """Number of blocks of a forward pass, and bytes of memory for all its arrays."""
    parts = _parts(network, n_examples, dtype)
    return len(_blocks(n_examples)), sum(_whole_lines(shape, dtype) for shape, dtype in parts)


def _blocks(n_examples: int) -> list[slice]:
    return [slice(i, min(i + _BLOCK, n_examples)) for i in range(0, n_examples, _BLOCK)]


def _parts(network: Network, n_examples: int, dtype: DTypeLike) -> _Parts:
    """Shapes and dtypes of the arrays of a ``Forward``, one attribute after the other."""
    layers, n_blocks = network.layers, len(_blocks(n_examples))
    return [
        *(((layer.n_rows, n_examples), dtype) for layer in layers),
        *(((n_examples, layer.n_out), dtype) for layer in layers),
        *(((n_examples,), dtype) for _ in layers),
        *(((n_blocks, layer.n_rows), np.int64) for layer in layers),
    ]


def _carve(memory: NDArray[np.uint8] | None, parts: _Parts) -> list[Any]:
    """Uninitialised arrays of these shapes and dtypes, one after the other in ``memory``, or in new memory."""
    if memory is None:
        return [np.empty(shape, dtype) for shape, dtype in parts]
    arrays = []
    start = 0
    for shape, dtype in parts:
        n_bytes = prod(shape) * np.dtype(dtype).itemsize
        arrays.append(memory[start : start + n_bytes].view(dtype).reshape(shape))
        start += _whole_lines(shape, dtype)
    return arrays


def _whole_lines(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Bytes of an array, rounded up to whole cache lines."""
    return -(-prod(shape) * np.dtype(dtype).itemsize // _CACHE_LINE_BYTES) * _CACHE_LINE_BYTES
