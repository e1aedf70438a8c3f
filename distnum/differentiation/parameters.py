"""The user's parameters and the flat array that is differentiated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError

__all__ = ["Params", "ParamsLayout"]

Params: TypeAlias = "Array | Mapping[str, Array]"


@dataclass(frozen=True)
class ParamsLayout:
    """Form in which the user's function gets its parameters: one array, or a dict of arrays.

    Attributes:
        names: Names of the arrays; empty for one array.
        shapes: Shapes of the arrays, or the shape of the one array.
        what: Name of the one array in messages.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    what: str = "params"

    @classmethod
    def of(cls, params: Params, what: str = "params") -> tuple[ParamsLayout, Array]:
        """The layout of ``params``, and a flat copy of them, shape ``(n_params,)``.

        Args:
            params: An array, or arrays by name.
            what: Name of ``params`` in messages.

        Raises:
            InputError: If ``params`` is empty, not finite, not float32 or float64, or of mixed dtypes.
        """
        if isinstance(params, Mapping):
            layout = cls(tuple(params), tuple(np.shape(array) for array in params.values()))
            arrays = {str(name): np.asarray(array) for name, array in params.items()}
        else:
            array = np.asarray(params)
            layout, arrays = cls((), (array.shape,), what), {what: array}
        dtypes = {array.dtype for array in arrays.values()}
        for name, array in arrays.items():
            if array.dtype not in (np.float32, np.float64):
                raise InputError(f"{name} has dtype {array.dtype}; it must be float32 or float64.")
            if not np.isfinite(array).all():
                raise InputError(f"{name} holds a number that is not finite; all parameters must be.")
        if len(dtypes) > 1:
            names = ", ".join(sorted(str(dtype) for dtype in dtypes))
            raise InputError(f"{what} mix the dtypes {names}; all arrays must have the same.")
        if sum(array.size for array in arrays.values()) == 0:
            raise InputError(f"{what} is empty; there must be at least one parameter.")
        return layout, np.concatenate([array.ravel() for array in arrays.values()])

    def __str__(self) -> str:
        if not self.names:
            return f"shape {self.shapes[0]}"
        return "arrays " + ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))

    def view(self, flat: Array) -> Any:
        """View of a flat array in this layout, or a dict of views."""
        if not self.names:
            return flat.reshape(self.shapes[0])
        parts = np.split(flat, np.cumsum([prod(shape) for shape in self.shapes])[:-1])
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def param_name(self, index: int) -> str:
        """Name of a flat index, such as ``weights[3, 17]`` or ``params[5]``."""
        start = 0
        for name, shape in zip(self.names or (self.what,), self.shapes, strict=True):
            size = prod(shape)
            if start <= index < start + size:
                position = np.unravel_index(index - start, shape)
                return name + (f"[{', '.join(str(int(i)) for i in position)}]" if shape else "")
            start += size
        raise IndexError(f"parameter index {index} is outside {start} parameters")
