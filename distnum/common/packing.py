"""Numbers, texts and arrays as bytes, in a form that cannot execute code: for messages and for files.

Packed fields are the length of a JSON object, the object, and the bytes of the arrays that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

__all__ = ["packed", "unpacked"]

_LENGTH_BYTES = 4
# Types of array elements that may be packed: booleans, integers, real and complex numbers.
_DTYPE = re.compile("[<>|][biufc][0-9]{1,2}")


def packed(fields: Mapping[str, Any]) -> bytes:
    """Return fields as bytes.

    Args:
        fields: By name: arrays and scalars of NumPy, and what JSON can hold, except dicts. Arrays must not be within
            lists.

    Raises:
        TypeError: A field is anything else.
    """
    header: dict[str, Any] = {}
    contents = []
    for name, value in fields.items():
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if not _DTYPE.fullmatch(array.dtype.str):
                raise TypeError(f"{name} is an array of {array.dtype}; it must be one of numbers")
            header[name] = {"dtype": array.dtype.str, "shape": array.shape}
            contents.append(array.tobytes())
        else:
            header[name] = value
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *contents])


def unpacked(content: bytes) -> dict[str, Any]:
    """Return the fields that were given to ``packed``; tuples come back as lists, arrays can be written.

    Raises:
        ValueError: These are no packed fields.
    """
    begin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        fields = json.loads(content[_LENGTH_BYTES:begin])
    except RecursionError:
        raise ValueError("not packed fields: it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("not packed fields: it holds no object")
    for name, value in fields.items():
        if isinstance(value, dict):
            try:
                if not _DTYPE.fullmatch(value["dtype"]):  # NumPy would evaluate other texts
                    raise ValueError(f"not packed fields: {name} is an array of {value['dtype']}")
                dtype, shape = np.dtype(value["dtype"]), tuple(map(int, value["shape"]))
            except (KeyError, TypeError, OverflowError) as error:
                raise ValueError(f"not packed fields: {name} is no array: {error}") from None
            end = begin + dtype.itemsize * prod(shape)
            # A copy, as the bytes cannot be written. A scalar of NumPy is an array without dimensions.
            fields[name] = np.frombuffer(content[begin:end], dtype).reshape(shape).copy()[()]
            begin = end
    if begin != len(content):
        raise ValueError("not packed fields: its length is wrong")
    return fields
