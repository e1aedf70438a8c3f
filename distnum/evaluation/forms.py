"""The form of a function's argument: a number, an array, or nested dicts, lists and tuples of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.evaluation.trees import (
    Path,
    as_numbers,
    described,
    in_order,
    leaf_numbers,
    matched,
    name_of,
    names_of,
    put_together,
    take_apart,
)

__all__ = ["Form", "Params"]

Params: TypeAlias = "float | Array | Mapping[Any, Params] | Sequence[Params]"
"""Parameters of a function: a number, an array, or nested dicts, lists and tuples of them."""

_ARRAY, _NUMBER, _NUMPY_NUMBER = "array", "number", "NumPy number"
_ALLOWED = "a number, an array of float32, float64 or whole numbers, or dicts, lists and tuples of them"


@dataclass(frozen=True)
class Form:
    """Form of a function's argument, which is kept as one flat array.

    The flat array holds all leaves one after the other, in the order of the dicts, and each in C order.

    Attributes:
        what: Name of the argument in messages.
        names: Name of each leaf, such as ``"x"``, ``"W1"`` or ``"layers[0].W"``; all are distinct.
        shapes: Shape of each leaf; ``()`` for a number.
        kinds: Kind of each leaf: ``"array"``, ``"number"`` of Python, or ``"NumPy number"``.
        structure: The dicts, lists and tuples, with the numbers of the leaves in place of these.
    """

    what: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    structure: Any = field(hash=False)

    @classmethod
    def of(cls, tree: Any, what: str = "x") -> tuple[Form, Array]:
        """The form of an argument, and a flat copy of it, shape ``(size,)``.

        Numbers of Python and arrays of whole numbers take the dtype of the other leaves, float32 or float64; float64
        if there are no others.

        Args:
            tree: A number, an array, or nested dicts, lists and tuples of them. Other mappings count as dicts.
            what: Name of the argument in messages.

        Raises:
            InputError: A leaf is no number or array of numbers, is complex or not finite; the dtypes differ; or
                there is no number at all.

        >>> form, flat = Form.of({"b": np.ones(2), "a": [1, 2.5]})
        >>> form.names, flat
        (('b', 'a[0]', 'a[1]'), array([1. , 1. , 1. , 2.5]))
        """
        leaves: list[tuple[Path, Any]] = []
        try:
            structure = take_apart(tree, leaves)
        except RecursionError:
            raise InputError(f"{what} contains itself, or is nested too deeply.") from None
        names = names_of([path for path, _ in leaves], what)
        arrays = [_leaf(leaf, name) for name, (_, leaf) in zip(names, leaves, strict=True)]
        if sum(array.size for array in arrays) == 0:
            raise InputError(f"{what} is empty; there must be at least one number in it.")
        kinds = tuple(_kind(leaf) for _, leaf in leaves)
        dtype = _common_dtype(what, arrays, kinds)
        parts = [_floats(array, dtype, name, what) for name, array in zip(names, arrays, strict=True)]
        return cls(what, names, tuple(array.shape for array in arrays), kinds, structure), np.concatenate(parts)

    @classmethod
    def of_array(cls, shape: tuple[int, ...], what: str = "x") -> Form:
        """The form of one array."""
        return cls(what, (what,), (shape,), (_ARRAY,), 0)

    @cached_property
    def size(self) -> int:
        """Number of numbers."""
        return self.starts[-1]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each leaf starts in the flat array, and the end of the last."""
        starts = [0]
        for shape in self.shapes:
            starts.append(starts[-1] + prod(shape))
        return tuple(starts)

    @cached_property
    def scalars(self) -> tuple[bool, ...]:
        """Whether each leaf is a number; such leaves are no views."""
        return tuple(kind != _ARRAY for kind in self.kinds)

    @cached_property
    def _shape(self) -> tuple[int, ...] | None:
        # Of the most frequent form, one plain array.
        return self.shapes[0] if self.structure == 0 and self.kinds == (_ARRAY,) else None

    def view(self, flat: NDArray[Any]) -> Any:
        """An argument of this form with the numbers of a flat array; its arrays are views of ``flat``.

        Args:
            flat: Shape ``(size,)``, of any dtype.
        """
        if self._shape is not None:
            return flat.reshape(self._shape)
        return put_together(self.structure, [self._leaf_view(flat, number) for number in range(len(self.names))])

    def _leaf_view(self, flat: NDArray[Any], number: int) -> Any:
        start, kind = self.starts[number], self.kinds[number]
        if kind == _ARRAY:
            return flat[start : self.starts[number + 1]].reshape(self.shapes[number])
        return flat.item(start) if kind == _NUMBER else flat[start]

    def named(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The leaves by their names; all are views of a flat array, those that are numbers of shape ``()``."""
        ends = zip(self.starts[:-1], self.starts[1:], strict=True)
        parts = [flat[start:end].reshape(shape) for (start, end), shape in zip(ends, self.shapes, strict=True)]
        return dict(zip(self.names, parts, strict=True))

    def nested(self, leaves: Sequence[Any]) -> Any:
        """The dicts, lists and tuples of this form with other leaves."""
        return put_together(self.structure, leaves)

    def in_order(self, tree: Any, names: Sequence[str]) -> Any:
        """A tree of this form with its keys in the order in which the flat array has these names.

        It is ``tree`` itself if the names are not those of this form.
        """
        leaves: list[tuple[Path, Any]] = []
        take_apart(tree, leaves)
        if sorted(names) != sorted(self.names):
            return tree
        ranks = [names.index(name) for name in self.names]
        return put_together(in_order(self.structure, ranks), [leaf for _, leaf in leaves])

    def flatten(
        self, tree: Any, what: str, dtype: DTypeLike = np.float64, broadcast: bool = False
    ) -> NDArray[np.inexact]:
        """The flat array, shape ``(size,)``, of another tree of this form; keys are matched by name.

        Args:
            tree: The tree. In place of an array it may have a list, and in place of a list an array.
            what: Name of ``tree`` in messages.
            dtype: Type of the flat array; complex numbers are refused unless it is complex.
            broadcast: Whether one number may stand for an array, or for a whole dict, list or tuple.

        Raises:
            InputError: The names, numbers of items or shapes differ, or something is no number.

        >>> Form.of({"b": np.ones(2), "a": 1.0})[0].flatten({"a": 3.0, "b": 5.0}, "h", broadcast=True)
        array([5., 5., 3.])
        """
        flat = np.empty(self.size, dtype)
        for part, value, path in matched(self.structure, tree, self.what, what):
            label = f"{what} of {name_of(path, self.what)}" if path else what
            array = as_numbers(value)
            if array is None or array.dtype.kind not in ("iufc" if flat.dtype.kind == "c" else "iuf"):
                raise InputError(f"{label} is {described(value)}; it must be a number or an array of real numbers.")
            numbers = leaf_numbers(part)
            if not (broadcast and array.ndim == 0) and (type(part) is not int or array.shape != self.shapes[part]):
                expected = f"shape {self.shapes[part]}" if type(part) is int else f"{len(numbers)} items"
                or_number = " or be one number" if broadcast else ""
                raise InputError(
                    f"{label} has shape {array.shape}, but {name_of(path, self.what)} has {expected}; "
                    f"they must be the same{or_number}."
                )
            for number in numbers:
                flat[self.starts[number] : self.starts[number + 1]] = array.ravel()
        return flat

    def indices(self, selection: Any = None) -> NDArray[np.int64]:
        """Flat indices of the selected entries, distinct and in ascending order.

        Args:
            selection: None for all; flat indices, a slice, or a boolean array of the shape of ``x``; names such as
                ``"W1"`` or ``"W1[3, 17]"``; or a dict with selections by name, where None is all of it.

        Raises:
            InputError: A name or an index is not in ``x``, or nothing is selected.
        """
        from distnum.evaluation.selection import selected

        return selected(self, selection)

    def entry_name(self, index: int) -> str:
        """The name of a flat index, such as ``x[3]``, ``W1[3, 17]``, ``layers[0].W[2]``, or ``x`` for a number.

        Raises:
            IndexError: The index is negative, or not below ``size``.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside the {self.size} entries of {self.what}")
        number = bisect_right(self.starts, index) - 1
        shape = self.shapes[number]
        position = np.unravel_index(index - self.starts[number], shape) if shape else ()
        return self.names[number] + (f"[{', '.join(str(int(i)) for i in position)}]" if shape else "")

    def unchanged(self, view: Any, flat: NDArray[Any]) -> bool:
        """Whether a view of a flat array still consists of views of that array, and of its numbers.

        It does not if a function has put other arrays into a dict or a list, or has added or removed something.
        """
        try:
            parts = list(matched(self.structure, view, self.what, self.what))
        except InputError:
            return False
        return all(type(part) is int and self._is_leaf(part, leaf, flat) for part, leaf, _ in parts)

    def _is_leaf(self, number: int, leaf: Any, flat: NDArray[Any]) -> bool:
        expected = self._leaf_view(flat, number)
        if self.kinds[number] != _ARRAY:
            return type(leaf) is type(expected) and bool(leaf == expected)
        same = isinstance(leaf, np.ndarray) and (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)
        return same and (leaf.ctypes.data, leaf.strides) == (expected.ctypes.data, expected.strides)


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.generic):
        return _NUMPY_NUMBER
    return _NUMBER if isinstance(leaf, (int, float)) else _ARRAY


def _leaf(leaf: Any, name: str) -> NDArray[Any]:
    """A leaf as an array of float32, float64 or whole numbers."""
    array = as_numbers(leaf) if isinstance(leaf, (np.ndarray, np.generic, int, float, complex)) else None
    if array is None or (isinstance(leaf, np.ndarray) and type(leaf) not in (np.ndarray, np.memmap)):
        raise InputError(f"{name} is {described(leaf)}; it must be {_ALLOWED}.")
    if array.dtype.kind not in "iu" and array.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise InputError(f"{name} has dtype {array.dtype}; it must be float32 or float64, or whole numbers.")
    return array


def _common_dtype(what: str, arrays: Sequence[NDArray[Any]], kinds: Sequence[str]) -> np.dtype[Any]:
    dtypes = {
        array.dtype.newbyteorder("=")
        for array, kind in zip(arrays, kinds, strict=True)
        if array.dtype.kind == "f" and kind != _NUMBER
    }
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise InputError(f"{what} mix the dtypes {names}; all arrays must have the same.")
    return dtypes.pop() if dtypes else np.dtype(np.float64)


def _floats(array: NDArray[Any], dtype: np.dtype[Any], name: str, what: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        floats: Array = array.astype(dtype).ravel()
        exact = array.dtype.kind == "f" or np.array_equal(floats.astype(array.dtype), array.ravel())
    if not np.isfinite(floats).all():
        raise InputError(f"{name} holds a number that is not finite; all numbers in {what} must be.")
    if not exact:
        raise InputError(f"{name} holds a whole number that {dtype} cannot hold exactly; give it as {dtype}.")
    return floats
