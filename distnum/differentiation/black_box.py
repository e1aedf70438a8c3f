"""What can be differenced: a small protocol, and any Python callable behind it.

An objective knows its parameters' tiles and what they cost. At one point, that is some
parameters and a batch, it gives the loss and the gradient's slice for any set of tiles.
Networks are differenced faster by ``propagation.py``; what has no structure to use is
differenced here, by evaluating the loss at every point of the stencil.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError, NotFiniteError
from distnum.differentiation.parameters import ParamsLayout
from distnum.differentiation.schemes import get_scheme
from distnum.differentiation.steps import default_h, representable_h
from distnum.workers.ray_pool.shared_memory import Peers
from distnum.workers.tiles import Shard, Tiles, even_tiles, indices_of

__all__ = ["BlackBox", "LossFunction", "check_takes"]
LossFunction = Callable[[Any, Any], float]

# Tiles that a black box is cut into at most. Each evaluation is a call of the user's
# function, so a tile costs nothing extra; many tiles keep many workers evenly busy.
_MOST_TILES = 65_536


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
        layout: ParamsLayout,
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

    def at(self, params: Array, batch: Any, n_threads: int = 1, others: Peers | None = None) -> BlackBoxPoint:
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
