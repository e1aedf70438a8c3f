"""How a flat array of parameters is shown to a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError

__all__ = ["Params", "ParamsLayout"]

Params: TypeAlias = "Array | Mapping[str, Array]"


@dataclass(frozen=True)
class ParamsLayout:
    """How a flat array of parameters is shown to the user's loss: as it is, or as a dict of arrays.

    Attributes:
        names: of the arrays; empty if the loss takes the flat array itself.
        shapes: of the arrays (of the one array, if there are no names).
        what: what an array without a name is called.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    what: str = "params"

    @classmethod
    def of(cls, params: Params, what: str = "params") -> tuple[ParamsLayout, Array]:
        """The layout of ``params`` and a flat copy of them, shape ``(n_params,)``.

        Args:
            params: an array, or arrays by name.
            what: what the caller calls them.

        Raises:
            InputError: they are not float32 or float64, not all of one dtype, not finite, or none.
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
            found = ", ".join(sorted(str(dtype) for dtype in dtypes))
            raise InputError(f"{what} mix the dtypes {found}; all arrays must have the same.")
        if sum(array.size for array in arrays.values()) == 0:
            raise InputError(f"{what} is empty; there must be at least one parameter.")
        return layout, np.concatenate([array.ravel() for array in arrays.values()])

    def __str__(self) -> str:
        if not self.names:
            return f"shape {self.shapes[0]}"
        return "arrays " + ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))

    def view(self, flat: Array) -> Any:
        """Views of a flat array in this layout."""
        if not self.names:
            return flat.reshape(self.shapes[0])
        views: dict[str, Array] = {}
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = int(np.prod(shape))
            views[name] = flat[start : start + size].reshape(shape)
            start += size
        return views

    def param_name(self, index: int) -> str:
        """The name of a flat index: ``weights[3, 17]``, or ``params[5]``."""
        start = 0
        for name, shape in zip(self.names or (self.what,), self.shapes, strict=True):
            size = int(np.prod(shape))
            if start <= index < start + size:
                position = np.unravel_index(index - start, shape)
                return name + (f"[{', '.join(str(int(i)) for i in position)}]" if shape else "")
            start += size
        raise IndexError(f"parameter index {index} is outside {start} parameters")
