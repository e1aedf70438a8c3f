"""Where parameters may be: bounds, and parameters that are not trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.differentiation.options import Request

__all__ = ["Domain"]


@dataclass(frozen=True)
class Domain:
    """The parameters that a training may reach.

    Attributes:
        lower, upper: Bounds, shape ``(n,)``; None without bounds.
        trained: Indices of the parameters that are trained; None for all of them.
    """

    lower: Array | None
    upper: Array | None
    trained: NDArray[np.int64] | None

    @classmethod
    def of(cls, request: Request) -> Domain | None:
        """The domain that the options ``bounds`` and ``indices`` describe; None if there is no limit.

        Raises:
            InputError: The initial parameters are outside the bounds.
        """
        x, lower, upper = request.x, request.lower, request.upper
        trained = request.indices if len(request.indices) < len(x) else None
        if lower is None and upper is None and trained is None:
            return None
        below = np.full(len(x), -np.inf) if lower is None else lower
        above = np.full(len(x), np.inf) if upper is None else upper
        if (wrong := np.flatnonzero((x < below) | (x > above))).size:
            index = int(wrong[0])
            raise InputError(
                f"{request.form.entry_name(index)} is {x[index]:.9g} at the beginning, outside its bounds "
                f"{below[index]:.9g} and {above[index]:.9g}."
            )
        return cls(lower, upper, trained)

    def project(self, params: Array, before: Array) -> Array:
        """The point of the domain that is nearest to updated parameters.

        Args:
            params: The parameters after an update, shape ``(n,)``.
            before: Those before it, which are in the domain.
        """
        if self.trained is not None:
            moved, params = params, before.copy()
            params[self.trained] = moved[self.trained]
        if self.lower is None or self.upper is None:
            return params
        return np.clip(params, self.lower, self.upper).astype(params.dtype, copy=False)
