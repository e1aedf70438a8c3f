"""A function to be differenced, as work for a pool: the answer at an index is one partial derivative."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from distnum.common.arrays import Array
from distnum.workers.tiles import all_tiles
from distnum.workers.work import Work

__all__ = ["Objective", "whole_gradient"]


class Objective(Work, Protocol):
    """A loss whose gradient is computed: ``answer_shape`` is ``()``, and indices are parameter indices."""

    @property
    def n_evaluations(self) -> int:
        """Number of losses evaluated for one gradient."""
        ...

    def param_name(self, index: int) -> str:
        """Name of a parameter, such as ``W1[3, 17]``."""
        ...


def whole_gradient(objective: Objective, params: Array, batch: Any = None, n_threads: int = 1) -> Array:
    """Numerical gradient at ``params`` and a batch, computed in this process; shape ``(n_params,)``."""
    grad = np.empty_like(params)
    objective.at(params, batch, n_threads).compute(all_tiles(objective.tiles), grad)
    return grad
