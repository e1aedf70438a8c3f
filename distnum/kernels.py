"""The compiled inner loop of difference propagation.

Numba compiles it when it is first called and keeps the machine code on the disk. Every
operation is one IEEE operation (no fused or reordered arithmetic), in an order that depends
on the arguments alone; the interpreter lock is released.
"""

from __future__ import annotations

import logging
from math import log1p
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distnum.losses import Series

__all__ = ["StraightUnits", "add_straight_changes"]

Array = NDArray[np.floating]

log = logging.getLogger("distnum")

# Units are taken in groups of so many, which fill the vector registers.
_GROUP = 8


class StraightUnits:
    """The units of a layer whose outputs and loss move along a series, laid side by side.

    Args:
        chosen: which units of each example, shape ``(n_examples, n_units)``.
        slopes: of their activations, the same shape.
        series: the change of the loss along each unit.
    """

    def __init__(self, chosen: NDArray[np.bool_], slopes: Array, series: Series) -> None:
        n_units = chosen.shape[1]
        counts = chosen.sum(axis=1)
        width = -(-int(counts.max()) // _GROUP) * _GROUP
        # Chosen units first, in their order; the rest of a group is filled with a unit that
        # does not move and whose sums nobody reads.
        order = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
        order = np.pad(order, ((0, 0), (0, width - order.shape[1])))
        filled = np.arange(width) < counts[:, None]
        self.counts = -(-counts // _GROUP) * _GROUP
        self.units = np.where(filled, order, n_units).astype(np.int32)

        def side_by_side(values: Array) -> Array:
            return np.where(filled, np.take_along_axis(values, order, axis=1), values.dtype.type(0))

        self.slopes = side_by_side(slopes)
        self.linear = side_by_side(series.linear)
        terms = [side_by_side(series.coefficients[:, k]) for k in range(series.coefficients.shape[1])]
        self.coefficients = np.stack(terms, axis=1)
        self.n_log_terms = series.n_log_terms

    def add_changes(self, inputs: Array, steps: Array, numerators: Array, total: Array) -> None:
        """Add the weighted changes of the loss, summed over the examples.

        Args:
            inputs: of the layer, shape ``(n_rows, n_examples)``, contiguous.
            steps: by which the weights move, one for each point of the stencil.
            numerators: the scheme's weights of the points.
            total: shape ``(n_rows, n_units + 1)``; added to. The last column is scratch.
        """
        _run_compiled(
            inputs,
            self.counts,
            self.units,
            self.slopes,
            steps,
            numerators,
            self.coefficients,
            self.linear,
            self.n_log_terms,
            total,
        )


def add_straight_changes(
    inputs: Any,
    counts: Any,
    units: Any,
    slopes: Any,
    steps: Any,
    numerators: Any,
    coefficients: Any,
    linear: Any,
    n_log_terms: int,
    total: Any,
) -> None:
    """See ``StraightUnits.add_changes``; plain loops over units, which the compiler vectorises."""
    n_rows, n_examples = inputs.shape
    width, n_terms = slopes.shape[1], coefficients.shape[1]
    dtype = inputs.dtype
    t, u, delta, change = np.empty(width, dtype), np.empty(width, dtype), np.empty(width, dtype), np.empty(width, dtype)
    zero, one = dtype.type(0), dtype.type(1)
    # log1p(u) = u - u²/2 + u³/3 - ...
    logarithm = np.empty(max(n_log_terms, 0) + 1, dtype)
    for i in range(1, n_log_terms + 1):
        logarithm[i] = (one if i % 2 == 1 else -one) / dtype.type(i)
    for row in range(n_rows):
        sums = total[row]
        for example in range(n_examples):
            z = inputs[row, example]
            if z == zero:
                continue
            n = counts[example]
            for j in range(n):
                change[j] = zero
            for point in range(len(steps)):
                shift, weight = steps[point] * z, numerators[point]
                slope, last = slopes[example], coefficients[example, n_terms - 1]
                for j in range(n):
                    t[j] = slope[j] * shift
                    u[j] = last[j] * t[j]
                for k in range(n_terms - 2, -1, -1):
                    term = coefficients[example, k]
                    for j in range(n):
                        u[j] = (u[j] + term[j]) * t[j]
                if n_log_terms > 0:
                    for j in range(n):
                        delta[j] = logarithm[n_log_terms] * u[j]
                    for i in range(n_log_terms - 1, 0, -1):
                        factor = logarithm[i]
                        for j in range(n):
                            delta[j] = (delta[j] + factor) * u[j]
                elif n_log_terms < 0:
                    for j in range(n):
                        delta[j] = log1p(u[j])
                else:
                    for j in range(n):
                        delta[j] = u[j]
                slope_of_rest = linear[example]
                for j in range(n):
                    change[j] += weight * (delta[j] - t[j] * slope_of_rest[j])
            unit = units[example]
            for j in range(n):
                sums[unit[j]] += change[j]


def _compiled(cache: bool) -> Any:
    return njit(cache=cache, nogil=True, error_model="numpy")(add_straight_changes)


_loop: Any = None


def _run_compiled(*arguments: Any) -> None:
    """Run the compiled loop; where machine code cannot be kept or read back, compile it anew."""
    global _loop
    try:
        if _loop is None:
            _loop = _compiled(cache=True)
        _loop(*arguments)
    except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, ImportError) as error:
        # All of these come from the files of the cache, before anything has been computed.
        log.info("compiled code is not kept: %s", error)
        _loop = _compiled(cache=False)
        _loop(*arguments)
