"""Packed fields come back with the same bits, and nothing else is accepted."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from distnum.common.packing import packed, unpacked


@pytest.mark.parametrize(
    "value",
    [
        None, 3, 0.1, "text ü", [1, "a", None], True,
        np.arange(6.0).reshape(2, 3), np.array([np.nan, -0.0, 5e-324]), np.zeros((0, 3), np.float32),
        np.array([1 + 2j, complex(np.nan, -0.0)]), np.arange(3, dtype=">i2"), np.float32(0.1),
        np.asfortranarray(np.eye(3)),
    ],
)  # fmt: skip
def test_fields_come_back_with_the_same_bits(value: Any) -> None:
    content = packed({"before": 1, "value": value, "after": np.arange(2)})
    received = unpacked(content)
    assert list(received) == ["before", "value", "after"]
    assert np.asarray(received["value"]).tobytes() == np.asarray(value).tobytes() or received["value"] == value
    assert np.asarray(received["value"]).shape == np.asarray(value).shape
    for end in range(len(content)):
        with pytest.raises(ValueError):  # noqa: PT011 (several kinds of it)
            unpacked(content[:end])


@pytest.mark.parametrize("shape", [[-1], [-1, -1], [1e400], [10**400], "x", None, [[1]], [2]])
def test_wrong_shapes_are_refused(shape: Any) -> None:
    text = json.dumps({"value": {"dtype": "<f8", "shape": shape}}).encode()
    with pytest.raises(ValueError):  # noqa: PT011
        unpacked(len(text).to_bytes(4, "little") + text + bytes(8))


def test_objects_and_pickles_are_refused() -> None:
    with pytest.raises(TypeError, match="value is an array of object"):
        packed({"value": np.array([{}])})
    with pytest.raises(ValueError):  # noqa: PT011
        unpacked(pickle.dumps({"value": 1}))
