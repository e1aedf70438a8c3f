"""Keys of evaluations: of a function with its arguments, and of points by their exact bits.

The key of a point is a sum of digests, one for each entry (Bellare and Micciancio, "A new paradigm for collision-free
hashing: incrementality at reduced cost", 1997). So a point that differs from another one in a few entries is
known after a few digests, and has the same key whatever base point it is reached from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.call import FunctionCall
from distnum.evaluation.points import Points
from distnum.evaluation.stores.digests import code_digest, digest, display_name, joined

__all__ = ["FunctionIdentity", "identity_of", "point_keys"]

_BYTES = 16
_MODULUS = 1 << (8 * _BYTES)
_CHUNK = 1 << 16


@dataclass(frozen=True)
class FunctionIdentity:
    """What distinguishes one function with its arguments from others.

    Attributes:
        key: 32 hexadecimal digits: of the name of the function (of its compiled code, if it has no name by which it
            can be imported) and of the exact bits of its arguments.
        name: The function's name, for messages and tables.
        code: Digest of the function's own compiled code, "" if it has none; not part of ``key`` if it has a name.
    """

    key: str
    name: str
    code: str

    def at_step(self, step: int) -> FunctionIdentity:
        """Return the identity of the function with the batch of a step."""
        return replace(self, key=joined(bytes.fromhex(self.key), digest(step)).hex())


def identity_of(call: FunctionCall) -> FunctionIdentity:
    """Return the identity of a function and its arguments; of its batches, but not of the step.

    Raises:
        InputError: An argument, or what a function within a function refers to, has no key.
    """
    parts: tuple[Any, ...] = (call.function, tuple(call.args), dict(call.kwargs), bool(call.vectorized))
    if call.batch_at is not None:
        parts = (*parts, call.batch_at)
    return FunctionIdentity(digest(parts).hex(), display_name(call.function), code_digest(call.function))


def point_keys(function_key: str, call: FunctionCall, points: Points) -> list[bytes]:
    """Return the key of each point, 16 bytes, for a function.

    It depends on the function's key, on the form and the dtype of the argument, on whether it is complex, and on the
    bits of all its entries.
    """
    base, form = points.base, call.form
    is_complex = np.iscomplexobj(points.values)
    about = (base.dtype.str, is_complex, form.names, form.shapes, form.kinds, form.structure)
    header = joined(bytes.fromhex(function_key), digest(about))
    of_base = _sum(_messages(np.arange(len(base)), base, is_complex))
    values = points.values if is_complex else points.values.astype(base.dtype, copy=False)
    old = _digests(_messages(points.entries, base[points.entries], is_complex))
    new = _digests(_messages(points.entries, values, is_complex))
    keys = []
    for begin, end in pairwise(points.starts.tolist()):
        total = of_base
        for slot in range(begin * _BYTES, end * _BYTES, _BYTES):
            total += int.from_bytes(new[slot : slot + _BYTES], "little")
            total -= int.from_bytes(old[slot : slot + _BYTES], "little")
        state = blake2b(header, digest_size=_BYTES)
        state.update((total % _MODULUS).to_bytes(_BYTES, "little"))
        keys.append(state.digest())
    return keys


def _messages(indices: NDArray[np.int64], values: NDArray[Any], is_complex: bool) -> tuple[bytes, int]:
    """Return for each entry its index and its bits, one after the other, and the number of bytes of each."""
    bits = values.astype(np.complex128) if is_complex else values
    content = np.ascontiguousarray(bits.astype(bits.dtype.newbyteorder("<"), copy=False)).view(np.uint8)
    numbers = np.ascontiguousarray(indices, dtype="<i8").view(np.uint8)
    rows = np.hstack([numbers.reshape(len(values), 8), content.reshape(len(values), bits.itemsize)])
    return rows.tobytes(), 8 + bits.itemsize


def _digests(messages: tuple[bytes, int]) -> bytes:
    content, size = messages
    parts = [content[begin : begin + size] for begin in range(0, len(content), size)]
    return b"".join([blake2b(part, digest_size=_BYTES).digest() for part in parts])


def _sum(messages: tuple[bytes, int]) -> int:
    """Return the sum of the digests of messages."""
    content, size = messages
    total = 0
    for begin in range(0, len(content), size * _CHUNK):
        digests = _digests((content[begin : begin + size * _CHUNK], size))
        lanes = np.frombuffer(digests, "<u4").reshape(-1, _BYTES // 4).sum(axis=0, dtype=np.uint64)
        total += sum(int(lane) << (32 * number) for number, lane in enumerate(lanes))
    return total % _MODULUS
