"""What can be differenced: a small protocol, and any Python callable behind it.

An objective knows its parameters' tiles and what they cost. At one point, that is some
parameters and a batch, it gives the loss and the gradient's slice for any set of tiles.
Networks are differenced faster by ``propagation.py``; what has no structure to use is
differenced here, by evaluating the loss at every point of the stencil.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.errors import InputError, NotFiniteError
from distnum.plan import Shard, Tiles, all_tiles, even_tiles, indices_of
from distnum.schemes import default_h, get_scheme, representable_h
from distnum.shared import Others

__all__ = ["BlackBox", "Layout", "LossFunction", "Objective", "Point", "check_takes", "whole_gradient"]

Array = NDArray[np.floating]
Params: TypeAlias = "Array | Mapping[str, Array]"
LossFunction = Callable[[Any, Any], float]

# Tiles that a black box is cut into at most. Each evaluation is a call of the user's
# function, so a tile costs nothing extra; many tiles keep many workers evenly busy.
_MOST_TILES = 65_536


class Point(Protocol):
    """An objective at some parameters and a batch."""

    @property
    def loss(self) -> float:
        """The loss at the point itself."""
        ...

    @property
    def costs(self) -> NDArray[np.float64]:
        """What each tile costs beside the others, shape ``(n_tiles,)``."""
        ...

    def grad_slice(self, shard: Shard, grad: Array) -> None:
        """Put the numerical gradient at the indices of a shard where it belongs in ``grad``, shape ``(n_params,)``."""
        ...

    @property
    def group_s(self) -> NDArray[np.float64] | None:
        """Seconds that each group's tiles have taken so far, shape ``(n_groups,)``; None without groups."""
        ...


class Objective(Protocol):
    """A loss to be differenced: which parameters, in which tiles, at what cost."""

    @property
    def n_params(self) -> int: ...

    @property
    def n_evaluations(self) -> int:
        """Losses evaluated for one gradient."""
        ...

    @property
    def tiles(self) -> Tiles:
        """Boundaries of the tiles in ``order``, shape ``(n_tiles + 1,)``."""
        ...

    @property
    def order(self) -> NDArray[np.int64] | None:
        """The parameter indices in the order of the tiles, shape ``(n_params,)``; None if it is their own."""
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """The group that each tile is in, ascending, shape ``(n_tiles,)``; None if all are in one."""
        ...

    @property
    def thread_safe(self) -> bool:
        """Whether it computes on threads where it is asked to."""
        ...

    def expected_costs(self, batch: Any, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """What each tile will cost beside the others, shape ``(n_tiles,)``, without evaluating anything.

        Args:
            batch: that will be asked for.
            before: what the tiles cost at the last point there was.
        """
        ...

    @property
    def shareable(self) -> Callable[[Any, DTypeLike], tuple[int, int]] | None:
        """Tells of a batch what workers of one machine can find together: how many blocks, of how many bytes in all.

        None if there is nothing of the kind.
        """
        ...

    def at(self, params: Array, batch: Any, n_threads: int = 1, others: Others | None = None) -> Point:
        """The objective at ``params``, shape ``(n_params,)``, and a batch.

        If it is not ``thread_safe`` it takes no notice of ``n_threads``; ``others`` may have found
        already what it would find.
        """
        ...

    def param_name(self, index: int) -> str: ...


def whole_gradient(
    objective: Objective, params: Array, batch: Any = None, n_threads: int = 1, others: Others | None = None
) -> Array:
    """The numerical gradient at ``params`` and a batch, computed here; shape ``(n_params,)``."""
    grad = np.empty_like(params)
    objective.at(params, batch, n_threads, others).grad_slice(all_tiles(objective.tiles), grad)
    return grad


@dataclass(frozen=True)
class Layout:
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
    def of(cls, params: Params, what: str = "params") -> tuple[Layout, Array]:
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


def check_takes(f: Callable[..., Any], name: str, arguments: tuple[str, ...]) -> None:
    """Refuse a function that cannot be called with so many arguments.

    Raises:
        InputError: it cannot.
    """
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return  # a function of C does not say what it takes
    try:
        signature.bind(*arguments)
    except TypeError:
        raise InputError(f"{name} takes {signature}; it must take ({', '.join(arguments)}).") from None


class BlackBox:
    """Any callable ``loss(params, batch) -> float``, differenced by evaluating it.

    Args:
        loss: gets the parameters in their layout and a batch; it must not keep or change
            them, and must give the same number for the same arguments.
        layout: how the loss wants its parameters.
        n_params: how many there are.
        scheme: name of the finite-difference scheme.
        h: the step of every parameter; None takes for each parameter ``x`` the scheme's
            own, ``default_h * max(1, |x|)``.
        param_name: names a parameter in error messages; from the layout by default.
    """

    thread_safe = False
    order = None
    groups = None

    def __init__(
        self,
        loss: LossFunction,
        layout: Layout,
        n_params: int,
        scheme: str = "central",
        h: float | None = None,
        param_name: Callable[[int], str] | None = None,
    ) -> None:
        self.loss = loss
        self.layout = layout
        self.n_params = n_params
        self.scheme = get_scheme(scheme)
        self.h = h
        self.param_name = param_name or layout.param_name

    @property
    def n_evaluations(self) -> int:
        return self.n_params * len(self.scheme.offsets) + 1

    @cached_property
    def tiles(self) -> Tiles:
        return even_tiles(self.n_params, _MOST_TILES)

    def expected_costs(self, batch: Any, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """An index costs as much as any other."""
        return np.diff(self.tiles).astype(np.float64)

    shareable = None

    def at(self, params: Array, batch: Any, n_threads: int = 1, others: Others | None = None) -> BlackBoxPoint:
        return BlackBoxPoint(self, params, batch)


class BlackBoxPoint:
    """A black box at some parameters and a batch. Moves ``params`` in place and puts them back."""

    def __init__(self, objective: BlackBox, params: Array, batch: Any) -> None:
        self._objective = objective
        self._params = params
        self._view = objective.layout.view(params)
        self._batch = batch

    def _evaluate(self, where: Callable[[], str]) -> np.floating | float:
        value = self._objective.loss(self._view, self._batch)
        if not isinstance(value, np.floating):
            try:
                if isinstance(value, (str, bytes)):
                    raise TypeError
                value = float(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"the loss returned {type(value).__name__} {value!r:.60}; it must return one number."
                ) from None
        if not np.isfinite(value):
            raise NotFiniteError(f"The loss is {value} {where()}.")
        return value

    @cached_property
    def _base(self) -> np.floating | float:
        return self._evaluate(lambda: "at the parameters themselves, before any is moved")

    @property
    def loss(self) -> float:
        return float(self._base)

    group_s = None

    @property
    def costs(self) -> NDArray[np.float64]:
        return self._objective.expected_costs(self._batch)

    def grad_slice(self, shard: Shard, grad: Array) -> None:
        objective = self._objective
        for index in indices_of(objective.tiles, shard).tolist():
            grad[index] = self._partial_derivative(index, objective)

    def _partial_derivative(self, index: int, objective: BlackBox) -> Any:
        scheme, params = objective.scheme, self._params
        x = params[index]
        wished = objective.h
        if wished is None:
            wished = default_h(scheme, params.dtype) * max(1.0, abs(float(x)))
        step = representable_h(params[index : index + 1], wished)[0]
        if step == 0:
            raise InputError(
                f"h is {wished:g}, which vanishes beside parameter {objective.param_name(index)} = {x:g} "
                f"in {params.dtype}; choose a larger h or h=None."
            )
        values = []

        def where() -> str:
            return (
                f"where parameter {objective.param_name(index)} (index {index}) is moved "
                f"by {offset:+d} times h = {step:g}"
            )

        try:
            for offset in scheme.offsets:
                params[index] = x + offset * step
                values.append(self._evaluate(where))
        finally:
            params[index] = x
        changes = np.array(values)
        if scheme.uses_base:
            changes = changes - self._base
        return scheme.combine(changes, step)
