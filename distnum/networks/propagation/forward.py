"""The forward pass that all changes start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.networks.dense import Network
from distnum.workers.ray_pool.shared_memory import _whole_lines

__all__ = ["_SPARSE", "Forward", "carve", "example_blocks", "size_of"]


# Examples of a forward pass that one thread makes.
_FORWARD_EXAMPLES = 128

# Share of nonzero inputs up to which passing over the zeros is faster than a dense product.
_SPARSE = 0.3


@dataclass(frozen=True)
class Forward:
    """What a forward pass went through, layer by layer.

    Attributes:
        inputs: shape ``(n_in + 1, n_examples)``, with ones for the bias.
        preactivations: shape ``(n_examples, n_out)``.
        farthest: the largest input of each example, by size, shape ``(n_examples,)``.
        counts: of how many examples of each block each input is not zero, ``(n_blocks, n_in + 1)``.
    """

    inputs: list[Array]
    preactivations: list[Array]
    farthest: list[Array]
    counts: list[NDArray[np.int64]]

    @staticmethod
    def parts(network: Network, n_examples: int, dtype: DTypeLike) -> list[tuple[tuple[int, ...], DTypeLike]]:
        """Shapes and dtypes of all arrays, one attribute after the other."""
        layers, n_blocks = network.layers, len(example_blocks(n_examples))
        return [
            *(((layer.n_rows, n_examples), dtype) for layer in layers),
            *(((n_examples, layer.n_out), dtype) for layer in layers),
            *(((n_examples,), dtype) for _ in layers),
            *(((n_blocks, layer.n_rows), np.int64) for layer in layers),
        ]

    @classmethod
    def empty(cls, network: Network, n_examples: int, dtype: DTypeLike, memory: NDArray[np.uint8] | None) -> Forward:
        """Not filled, in some memory or in new memory."""
        arrays, n = carve(memory, cls.parts(network, n_examples, dtype)), len(network.layers)
        return cls(arrays[:n], arrays[n : 2 * n], arrays[2 * n : 3 * n], arrays[3 * n :])


def example_blocks(n_examples: int) -> list[slice]:
    """The examples of a batch in blocks that are passed forward together."""
    return [slice(i, min(i + _FORWARD_EXAMPLES, n_examples)) for i in range(0, n_examples, _FORWARD_EXAMPLES)]


def carve(memory: NDArray[np.uint8] | None, parts: Sequence[tuple[tuple[int, ...], DTypeLike]]) -> list[Any]:
    """Arrays of these shapes and dtypes, one after the other in some memory, or in new memory; not filled."""
    if memory is None:
        return [np.empty(shape, dtype) for shape, dtype in parts]
    found = []
    start = 0
    for shape, dtype in parts:
        n_bytes = prod(shape) * np.dtype(dtype).itemsize
        found.append(memory[start : start + n_bytes].view(dtype).reshape(shape))
        start += _whole_lines(n_bytes)
    return found


def size_of(parts: Sequence[tuple[tuple[int, ...], DTypeLike]]) -> int:
    """Bytes that ``carve`` takes."""
    return sum(_whole_lines(prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in parts)
