"""Any Python callable as an objective: the loss is evaluated at every point of the stencil.

Networks are differenced faster by ``networks.propagation``; this is for functions whose
structure is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.checks import checked, choice
from distnum.common.errors import InputError, NotFiniteError
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.differentiation.stencils.steps import default_h, representable_h
from distnum.evaluation.forms import Form
from distnum.workers.tiles import Shard, Tiles, even_tiles, indices_of

__all__ = ["BlackBox", "LossFunction", "no_batch"]

LossFunction = Callable[[Any, Any], float]
"""A function ``loss(params, batch)`` that returns one number."""

# Largest number of tiles. An evaluation is a call of the user's function, so a tile costs nothing
# extra, and many tiles keep many workers evenly busy.
_MOST_TILES = 65_536


def no_batch(step: int) -> None:
    """The batch of every step for a function that takes none."""
    return


class BlackBox:
    """Any callable ``loss(params, batch) -> float``.

    Args:
        loss: Called with the parameters in their form and a batch. It must not keep or change
            them, and must return the same number for the same arguments.
        form: Form of the parameters.
        n_params: Number of parameters.
        scheme: Name of the finite-difference scheme.
        h: Step of every parameter; None takes ``default_h`` for each parameter ``x``.
        param_name: Returns the name of a parameter for error messages; by default the form's.
    """

    thread_safe = False
    answer_shape = ()
    order = None
    groups = None

    def __init__(
        self,
        loss: LossFunction,
        form: Form,
        n_params: int,
        scheme: str = "central",
        h: float | None = None,
        param_name: Callable[[int], str] | None = None,
    ) -> None:
        self.loss = loss
        self.form = form
        self.n_params = n_params
        self.scheme = SCHEMES[checked("scheme", scheme, choice(*SCHEMES))]
        self.h = h
        self.param_name = param_name or form.entry_name

    @property
    def n_evaluations(self) -> int:
        return self.n_params * len(self.scheme.offsets) + 1

    @cached_property
    def tiles(self) -> Tiles:
        return even_tiles(self.n_params, _MOST_TILES)

    def expected_costs(self, batch: Any, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Number of parameters in each tile: all cost the same."""
        return np.diff(self.tiles).astype(np.float64)

    def at(self, params: Array, batch: Any, n_threads: int = 1) -> BlackBoxPoint:
        """This function at ``params`` and a batch; it uses one thread."""
        return BlackBoxPoint(self, params, batch)


class BlackBoxPoint:
    """A black box at some parameters and a batch. It moves ``params`` in place and restores them."""

    group_s = None

    def __init__(self, objective: BlackBox, params: Array, batch: Any) -> None:
        self._objective = objective
        self._params = params
        self._view = objective.form.view(params)
        self._rebuild = any(objective.form.scalars)  # numbers are no views
        self._batch = batch

    def _evaluate(self, where: Callable[[], str]) -> np.floating | float:
        if self._rebuild:
            self._view = self._objective.form.view(self._params)
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
    def value(self) -> float:
        return float(self._base)

    @property
    def costs(self) -> NDArray[np.float64]:
        return self._objective.expected_costs(self._batch)

    def compute(self, shard: Shard, answers: Array) -> None:
        for index in indices_of(self._objective.tiles, shard).tolist():
            answers[index] = self._partial_derivative(index)

    def _partial_derivative(self, index: int) -> Any:
        objective, params = self._objective, self._params
        scheme, x = objective.scheme, params[index]
        h = default_h(scheme, params.dtype, float(x)) if objective.h is None else objective.h
        step = representable_h(params[index : index + 1], h)[0]
        if step == 0:
            raise InputError(
                f"h is {h:g}, which vanishes when added to parameter {objective.param_name(index)} = {x:g} "
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
