"""The form of a function's values: a number, an array, or a dict of them."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form
from distnum.evaluation.trees import as_numbers, described

__all__ = ["NUMBER", "ValueForm", "flat_value"]

_KEPT = frozenset(np.dtype(name) for name in ("float32", "float64", "complex64", "complex128"))
_ALLOWED = "it must return a number, an array of numbers or a dict of them"


@dataclass(frozen=True)
class ValueForm:
    """Form of a function's values.

    Attributes:
        keys: Keys of a dict, in its order: texts, numbers, None, or tuples of them; None if the value is one number
            or array.
        shapes: Shapes of the values of the dict, or the shape of the one value; ``()`` for a number.
        dtype: ``"float64"``, ``"float32"``, ``"complex128"`` or ``"complex64"``: type of the flat values.
    """

    keys: tuple[Hashable, ...] | None
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @cached_property
    def size(self) -> int:
        """Number of numbers in a value."""
        return sum(prod(shape) for shape in self.shapes)

    def __str__(self) -> str:
        if self.keys is None:
            return f"shape {self.shapes[0]}"
        return f"a dict with {', '.join(map(repr, self.keys[:6]))}{', ...' if len(self.keys) > 6 else ''}"

    def view(self, flat: NDArray[np.inexact]) -> Any:
        """Values of this form.

        Args:
            flat: Flat values, shape ``(..., size)``.

        Returns:
            Views of shape ``(..., *shape)``, in a dict if the function returns one. Without further axes, a number is
            a ``float`` or ``complex`` if it has double precision, or NumPy's ``float32`` or ``complex64``.
        """
        leading = flat.shape[:-1]
        items = [part.reshape(leading + shape) for part, shape in self._parts(flat, flat.ndim - 1)]
        items = [item if item.ndim else _number(item) for item in items]
        return items[0] if self.keys is None else dict(zip(self.keys, items, strict=True))

    def jacobian(self, flat: NDArray[np.inexact], form: Form) -> Any:
        """Derivatives of values of this form by an argument.

        Args:
            flat: Derivatives of each flat value by each flat entry, shape ``(size, form.size)``.
            form: Form of the argument.

        Returns:
            Views of shape ``f.shape + x.shape``: by the keys of ``f`` if it is a dict, and each in the dicts, lists
            and tuples of ``x``.
        """
        items = []
        for rows, shape in self._parts(flat, 0):
            leaves = []
            for number, leaf_shape in enumerate(form.shapes):
                leaf: Any = rows[:, form.starts[number] : form.starts[number + 1]].reshape(shape + leaf_shape)
                if not shape and form.scalars[number]:
                    leaf = leaf.item() if form.kinds[number] == "number" else leaf[()]
                leaves.append(leaf)
            items.append(form.nested(leaves))
        return items[0] if self.keys is None else dict(zip(self.keys, items, strict=True))

    def aligned(self, values: NDArray[np.inexact], form: ValueForm) -> NDArray[np.inexact]:
        """Flat values of another form, shape ``(..., size)``, with the keys in the order of this one.

        Raises:
            InputError: The other form has other keys or shapes.

        >>> form, other = flat_value({"a": 1.0, "b": 2.0})[0], flat_value({"b": 5.0, "a": 7.0})[0]
        >>> form.aligned(np.array([5.0, 7.0]), other)
        array([7., 5.])
        """
        if (form.keys, form.shapes) == (self.keys, self.shapes):
            return values
        if self.keys is None or form.keys is None or set(form.keys) != set(self.keys):
            if form.keys != self.keys:
                raise InputError(f"fun returned {form}, where fun(x) returned {self}.")
            order = [0]
        else:
            order = [form.keys.index(key) for key in self.keys]
        for number, shape in zip(order, self.shapes, strict=True):
            if form.shapes[number] != shape:
                name = "fun" if form.keys is None else f"fun[{form.keys[number]!r}]"
                raise InputError(f"{name} returned shape {form.shapes[number]}, where fun(x) returned shape {shape}.")
        parts = [part for part, _ in form._parts(values, values.ndim - 1)]
        return np.concatenate([parts[number] for number in order], axis=-1)

    def _parts(self, flat: NDArray[np.inexact], axis: int) -> list[tuple[NDArray[np.inexact], tuple[int, ...]]]:
        parts, start = [], 0
        for shape in self.shapes:
            end = start + prod(shape)
            parts.append((flat[(slice(None),) * axis + (slice(start, end),)], shape))
            start = end
        return parts

    def entry_name(self, index: int) -> str:
        """The name of a flat index, such as ``fun``, ``fun[3]`` or ``fun['a'][2]``."""
        number = 0
        while index >= prod(self.shapes[number]):
            index -= prod(self.shapes[number])
            number += 1
        shape = self.shapes[number]
        name = "fun" if self.keys is None else f"fun[{self.keys[number]!r}]"
        position = ", ".join(str(int(i)) for i in np.unravel_index(index, shape)) if shape else ""
        return f"{name}[{position}]" if shape else name

    def to_json(self) -> dict[str, Any]:
        """This form as plain JSON values."""
        keys = None if self.keys is None else list(self.keys)
        return {"keys": keys, "shapes": [list(shape) for shape in self.shapes], "dtype": self.dtype}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ValueForm:
        """The form that ``to_json`` returned as plain JSON values."""
        keys = None if values["keys"] is None else tuple(_hashable(key) for key in values["keys"])
        return cls(keys, tuple(tuple(shape) for shape in values["shapes"]), values["dtype"])


NUMBER = ValueForm(None, ((),), "float64")
"""Form of a function that returns one number of double precision."""


def flat_value(value: Any, expected: ValueForm | None = None) -> tuple[ValueForm, NDArray[np.inexact]]:
    """Return the form of a function's value, and the value as a flat array, shape ``(size,)``.

    Whole numbers and booleans become float64. Infinite numbers and NaN are allowed.

    Args:
        value: What the function returned.
        expected: Form of its other values. A dict is brought into the order of its keys. The dtype of the returned
            form may be wider than the expected one.

    Returns:
        The form, and the flat value; it may be a view of ``value``.

    Raises:
        InputError: The value is no number, array of numbers or dict of them; or its form is not the expected one.
    """
    if type(value) is float and (expected is NUMBER or expected is None or expected == NUMBER):
        return NUMBER, np.array([value])
    if isinstance(value, Mapping):
        form, flat = _flat_dict(value)
    else:
        array = _array(value, "fun")
        flat = array.ravel()
        form = _array_form(array.shape, array.dtype)
    return (form, flat) if expected is None else _fitted(form, flat, expected)


@lru_cache(maxsize=64)
def _array_form(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ValueForm:
    return ValueForm(None, (shape,), dtype.name)


def _flat_dict(value: Mapping[Hashable, Any]) -> tuple[ValueForm, NDArray[np.inexact]]:
    keys = tuple(value)
    if not keys:
        raise InputError(f"fun returned an empty dict; {_ALLOWED}.")
    arrays = [_array(value[key], f"fun[{key!r}]") for key in keys]
    flat = np.concatenate([array.ravel() for array in arrays])
    plain = tuple(_plain_key(key) for key in keys)
    return ValueForm(plain, tuple(array.shape for array in arrays), flat.dtype.name), flat


def _fitted(form: ValueForm, flat: NDArray[np.inexact], expected: ValueForm) -> tuple[ValueForm, NDArray[np.inexact]]:
    """A value in the wider of its dtype and the expected one."""
    if form == expected:
        return expected, flat
    flat = expected.aligned(flat, form)
    dtype = np.result_type(form.dtype, expected.dtype)
    return replace(expected, dtype=dtype.name), flat.astype(dtype, copy=False)


def _array(value: Any, name: str) -> NDArray[np.inexact]:
    """A value as an array of float32, float64, complex64 or complex128."""
    array = as_numbers(value)
    if array is None and hasattr(value, "__float__") and not isinstance(value, np.ndarray):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # Fraction, Decimal, numbers of other libraries
            array = np.array(float(value))
    if array is None:
        raise InputError(f"{name} returned {described(value)}; {_ALLOWED}.")
    if not array.size:
        raise InputError(f"{name} returned an empty array of shape {array.shape}; {_ALLOWED}.")
    return array if array.dtype in _KEPT else array.astype(_kept(array.dtype))


def _kept(dtype: np.dtype[Any]) -> str:
    """The type in which numbers are kept."""
    if dtype.kind == "c":
        return "complex64" if dtype.itemsize == 8 else "complex128"
    return "float32" if dtype.kind == "f" and dtype.itemsize <= 4 else "float64"


def _number(array: NDArray[np.inexact]) -> Any:
    return array.item() if array.dtype in (np.float64, np.complex128) else array[()]


def _plain_key(key: Hashable) -> Hashable:
    """A key of the types that JSON can hold, or a tuple of them."""
    key = key.item() if isinstance(key, np.generic) else key
    if isinstance(key, tuple):
        return tuple(_plain_key(part) for part in key)
    if key is None or isinstance(key, (str, int, float)):
        return key
    raise InputError(
        f"fun returned a dict with the key {key!r:.60}; keys must be texts, numbers, None, or tuples of them."
    )


def _hashable(key: Any) -> Hashable:
    return tuple(_hashable(part) for part in key) if isinstance(key, list) else key
