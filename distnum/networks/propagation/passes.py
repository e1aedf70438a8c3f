"""Compiled passes over the units of some examples: what the loops in ``kernels.py`` read.

Which units move, the series of the loss along each, and the first layer's product for inputs
that are mostly zero. They hold no formula of the moves, so they need not share a file with them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from distnum.networks.propagation.compiled import Kernel

__all__ = ["classify", "largest_move", "list_units", "series_kernel", "sparse_product", "take_in", "take_units"]


@cache
def series_kernel(loss: str, n_terms: int) -> Kernel:
    """How the loss of an example changes along the direction of each unit: its series, see ``losses.py``.

    Args:
        loss: ``"cross_entropy"`` or ``"mean_squared_error"``.
        n_terms: how many coefficients to give.

    Returns:
        a function of the ``factors`` and the ``labels`` of the loss at all examples; the directions
        ``v (1 or all examples, n_outputs, n_units)``; ``scales``, by which a unit's direction is
        multiplied, ``(all examples, n_units)``, or empty; the ``examples`` to take, and of them the
        ``chosen`` units ``(n_examples, n_units)``; ``counts`` and ``units`` as a loop over these wants
        them, or no ``units``, where it takes all; and ``data (n_examples, n_fields, width)``, into
        which ``l`` and ``c_k`` are written from the field ``first`` on.
    """
    softmax = loss == "cross_entropy"

    def kernel(
        factors: Any,
        labels: Any,
        v: Any,
        scales: Any,
        examples: Any,
        chosen: Any,
        units: Any,
        counts: Any,
        data: Any,
        first: Any,
    ) -> None:
        dtype = factors.dtype
        zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
        n_units = v.shape[2]
        sums = np.empty((n_terms, n_units), dtype)
        scale, power = np.empty(n_units, dtype), np.empty(n_units, dtype)
        linear = np.zeros(n_units, dtype)
        n_outputs = dtype.type(factors.shape[1])
        for row in range(len(examples)):
            example = examples[row]
            directions = v[example if len(v) > 1 else 0]
            sums[:] = zero
            for c in range(factors.shape[1]):
                factor, x = factors[example, c], directions[c]
                for j in range(n_units):
                    if softmax:
                        term = factor * x[j]
                        for k in range(n_terms):
                            sums[k, j] += term
                            term = term * x[j] * (one / dtype.type(k + 2))
                    elif n_terms > 0:
                        sums[0, j] += two * factor * x[j] / n_outputs
                        sums[1, j] += x[j] * x[j] / n_outputs
            if softmax:
                linear[:] = directions[labels[example]]
            for j in range(n_units):
                scale[j] = (one if len(scales) == 0 else scales[example, j]) if chosen[row, j] else zero
            if len(units) == 0:
                for j in range(n_units):
                    power[j] = scale[j]
                    data[row, first, j] = linear[j] * scale[j]
                for k in range(n_terms):
                    for j in range(n_units):
                        data[row, first + 1 + k, j] = sums[k, j] * power[j]
                        power[j] *= scale[j]
            else:
                for j in range(counts[row]):
                    unit = units[row, j]
                    t = scale[unit]
                    data[row, first, j] = linear[unit] * t
                    for k in range(n_terms):
                        data[row, first + 1 + k, j] = sums[k, unit] * t
                        t = t * scale[unit]

    return Kernel(kernel)


def _classify(slope: Any, distance: Any, reach: Any, kinds: Any, t_max: Any, n_bent: Any) -> None:
    for example in range(len(slope)):
        r = reach[example, 0]
        for unit in range(slope.shape[1]):
            t = abs(slope[example, unit]) * r
            straight = r < distance[example, unit]
            t_max[example, unit] = t
            kinds[example, unit] = (1 if t > 0 else 0) if straight else 2
            n_bent[0] += not straight


def _largest_move(chosen: Any, t_max: Any, v: Any, largest: Any) -> None:
    farthest = np.empty(v.shape[2], v.dtype)
    for example in range(len(chosen)):
        if example == 0 or len(v) > 1:
            farthest[:] = v.dtype.type(0)
            for c in range(v.shape[1]):
                x = v[example, c]
                for unit in range(len(farthest)):
                    farthest[unit] = max(farthest[unit], abs(x[unit]))
        for unit in range(chosen.shape[1]):
            if chosen[example, unit]:
                largest[0] = max(largest[0], t_max[example, unit] * farthest[unit])


def _list_units(chosen: Any, units: Any, counts: Any) -> None:
    for example in range(len(chosen)):
        n = 0
        for unit in range(chosen.shape[1]):
            units[example, n] = unit
            n += chosen[example, unit]
        counts[example] = n
        units[example, n:] = chosen.shape[1]


def _take_units(values: Any, examples: Any, units: Any, counts: Any, taken: Any) -> None:
    for row in range(len(examples)):
        for j in range(counts[row]):
            taken[row, j] = values[examples[row], units[row, j]]


def _take_in(z: Any, inputs: Any, farthest: Any, counts: Any) -> None:
    one = z.dtype.type(1)
    n_in = z.shape[1]
    farthest[:] = one
    counts[:] = 0
    # Some inputs at a time, so that a line of memory is read once for all of them.
    for start in range(0, n_in, 8):
        stop = min(start + 8, n_in)
        for example in range(len(z)):
            for i in range(start, stop):
                value = z[example, i]
                inputs[i, example] = value
                farthest[example] = max(farthest[example], abs(value))
                counts[i] += value != 0
    inputs[n_in] = one
    counts[n_in] = len(z)


def _sparse_product(x: Any, weights: Any, biases: Any, product: Any) -> None:
    zero = x.dtype.type(0)
    n_out = weights.shape[1]
    of = np.empty(x.shape, np.int32)
    counts = np.empty(len(x), np.int64)
    for example in range(len(x)):
        n = 0
        for i in range(x.shape[1]):
            of[example, n] = i
            n += x[example, i] != zero
        counts[example] = n
    # Some units at a time, whose weights stay in a core's second-level cache for all examples.
    for start in range(0, n_out, 512):
        stop = min(start + 512, n_out)
        for example in range(len(x)):
            z, a = x[example], product[example, start:stop]
            a[:] = biases[start:stop]
            n = counts[example]
            n_fours = n - n % 4
            # Four inputs at once: the sums are read and written a quarter as often.
            for k in range(0, n_fours, 4):
                i0, i1, i2, i3 = of[example, k], of[example, k + 1], of[example, k + 2], of[example, k + 3]
                w0, w1 = weights[i0, start:stop], weights[i1, start:stop]
                w2, w3 = weights[i2, start:stop], weights[i3, start:stop]
                for j in range(stop - start):
                    a[j] += (z[i0] * w0[j] + z[i1] * w1[j]) + (z[i2] * w2[j] + z[i3] * w3[j])
            for k in range(n_fours, n):
                i0 = of[example, k]
                w0 = weights[i0, start:stop]
                for j in range(stop - start):
                    a[j] += z[i0] * w0[j]


classify = Kernel(_classify)
"""Say of each unit whether it stays (0), moves along a straight line (1) and how far, or neither (2), and count these.

``slope``, ``distance`` of the kink, ``kinds`` and ``t_max``: ``(n_examples, n_units)``; ``reach (n_examples, 1)``.
"""

largest_move = Kernel(_largest_move)
"""Put into ``largest (1,)`` how far an output moves at most with the chosen units, that move by ``t_max``
along the directions ``v (1 or n_examples, n_outputs, n_units)``."""

list_units = Kernel(_list_units)
"""Write the numbers of the chosen units of each example, one after the other, and how many they are."""

take_in = Kernel(_take_in)
"""Lay out a layer's inputs ``z (n_examples, n_in)``, and ones for the bias, in ``inputs (n_in + 1, n_examples)``.

Tells the largest of each example by size, ``farthest (n_examples,)``, and of how many examples
each is not zero, ``counts (n_in + 1,)``.
"""

take_units = Kernel(_take_units)
"""Write a value ``(all examples, n_units)`` for each of these units of these examples."""

sparse_product = Kernel(_sparse_product)
"""``x @ weights + biases`` for ``x`` whose entries are mostly zero; ``x`` and ``weights`` in row-major order."""
