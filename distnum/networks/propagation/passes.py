"""Compiled passes that prepare what the loops in ``kernels.py`` read, and a sparse matrix product.

They hold no formula of an activation, so they need not share a file with the loops. None of them
assigns to a slice of an array: Numba would compile the text of the error message for unequal
shapes, which takes more than a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distnum.networks.propagation.compiled import Kernel

__all__ = ["classify", "largest_move", "list_units", "sparse_product", "take_units", "transpose_inputs", "write_series"]


def _write_series(
    softmax: Any,
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
    half, third = one / dtype.type(2), one / dtype.type(3)
    n_units = v.shape[2]
    n_terms = data.shape[1] - first - 1
    n_outputs = dtype.type(factors.shape[1])
    sums = np.empty((n_terms, n_units), dtype)
    term, scale, power = np.empty(n_units, dtype), np.empty(n_units, dtype), np.empty(n_units, dtype)
    linear = np.zeros(n_units, dtype)
    for row in range(len(examples)):
        example = examples[row]
        directions = v[example if len(v) > 1 else 0]
        for k in range(n_terms):
            for j in range(n_units):
                sums[k, j] = zero
        for c in range(factors.shape[1]):
            factor, x = factors[example, c], directions[c]
            if softmax and n_terms > 0:
                # Three terms at once, then two at a time: each x is read a few times only.
                for j in range(n_units):
                    t0 = factor * x[j]
                    t1 = t0 * x[j] * half
                    t2 = t1 * x[j] * third
                    sums[0, j] += t0
                    sums[1, j] += t1
                    sums[2, j] += t2
                    term[j] = t2
                for k in range(3, n_terms, 2):
                    r0, r1 = one / dtype.type(k + 1), one / dtype.type(k + 2)
                    for j in range(n_units):
                        t0 = term[j] * x[j] * r0
                        t1 = t0 * x[j] * r1
                        sums[k, j] += t0
                        sums[k + 1, j] += t1
                        term[j] = t1
            elif n_terms > 0:
                for j in range(n_units):
                    sums[0, j] += two * factor * x[j] / n_outputs
                    sums[1, j] += x[j] * x[j] / n_outputs
        if softmax:
            x = directions[labels[example]]
            for j in range(n_units):
                linear[j] = x[j]
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
                if unit >= n_units:  # padding
                    break
                t = scale[unit]
                data[row, first, j] = linear[unit] * t
                for k in range(n_terms):
                    data[row, first + 1 + k, j] = sums[k, unit] * t
                    t = t * scale[unit]


def _classify(slope: Any, distance: Any, reach: Any, classes: Any, t_max: Any, n_curved: Any) -> None:
    for example in range(len(slope)):
        r = reach[example, 0]
        for unit in range(slope.shape[1]):
            t = abs(slope[example, unit]) * r
            straight = r < distance[example, unit]
            t_max[example, unit] = t
            classes[example, unit] = (1 if t > 0 else 0) if straight else 2
            n_curved[0] += not straight


def _largest_move(chosen: Any, t_max: Any, v: Any, largest: Any) -> None:
    farthest = np.empty(v.shape[2], v.dtype)
    for example in range(len(chosen)):
        if example == 0 or len(v) > 1:
            for unit in range(len(farthest)):
                farthest[unit] = v.dtype.type(0)
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
        for j in range(n, units.shape[1]):
            units[example, j] = chosen.shape[1]


def _take_units(values: Any, examples: Any, units: Any, counts: Any, data: Any, field: Any) -> None:
    for row in range(len(examples)):
        for j in range(counts[row]):
            data[row, field, j] = values[examples[row], units[row, j]]


def _transpose_inputs(z: Any, inputs: Any, first: Any, farthest: Any, counts: Any) -> None:
    one = z.dtype.type(1)
    n_in = z.shape[1]
    for example in range(len(z)):
        farthest[example] = one
    for i in range(n_in):
        counts[i] = 0
    # 8 inputs at a time, so that a cache line is read once for all of them.
    for start in range(0, n_in, 8):
        stop = min(start + 8, n_in)
        for example in range(len(z)):
            for i in range(start, stop):
                value = z[example, i]
                inputs[i, first + example] = value
                farthest[example] = max(farthest[example], abs(value))
                counts[i] += value != 0
    for example in range(len(z)):
        inputs[n_in, first + example] = one
    counts[n_in] = len(z)


def _sparse_product(x: Any, weights: Any, biases: Any, product: Any) -> None:
    zero = x.dtype.type(0)
    n_out = weights.shape[1]
    nonzero = np.empty(x.shape, np.int32)
    counts = np.empty(len(x), np.int64)
    for example in range(len(x)):
        n = 0
        for i in range(x.shape[1]):
            nonzero[example, n] = i
            n += x[example, i] != zero
        counts[example] = n
    # The weights of 512 units stay in a core's second-level cache for all examples.
    for start in range(0, n_out, 512):
        stop = min(start + 512, n_out)
        bias = biases[start:stop]
        for example in range(len(x)):
            z, a = x[example], product[example, start:stop]
            for j in range(stop - start):
                a[j] = bias[j]
            n = counts[example]
            n_fours = n - n % 4
            # Four inputs at once: the sums are read and written a quarter as often.
            for k in range(0, n_fours, 4):
                i0, i1 = nonzero[example, k], nonzero[example, k + 1]
                i2, i3 = nonzero[example, k + 2], nonzero[example, k + 3]
                w0, w1 = weights[i0, start:stop], weights[i1, start:stop]
                w2, w3 = weights[i2, start:stop], weights[i3, start:stop]
                for j in range(stop - start):
                    a[j] += (z[i0] * w0[j] + z[i1] * w1[j]) + (z[i2] * w2[j] + z[i3] * w3[j])
            for k in range(n_fours, n):
                i0 = nonzero[example, k]
                w0 = weights[i0, start:stop]
                for j in range(stop - start):
                    a[j] += z[i0] * w0[j]


write_series = Kernel(_write_series)
"""Write the series of the change of the loss along the direction of each unit; see ``losses.py``.

Args:
    softmax: Whether the loss is cross-entropy.
    factors, labels: ``LossPoint.factors`` and ``labels`` of all examples of a block.
    v: Directions, shape ``(1 or all examples, n_outputs, n_units)``.
    scales: Factor of each unit's direction, shape ``(all examples, n_units)``; empty for ones.
    examples: Examples to take, shape ``(n_examples,)``.
    chosen: Units to take, shape ``(n_examples, n_units)``; the others get zeros.
    units, counts: Units of each example as in ``UnitArrays``; ``units`` empty for all units.
    data: Shape ``(n_examples, n_fields, width)``. Field ``first`` becomes ``l``, the fields after it
        ``c_1, c_2, ...``; their number, the number of terms, is 0 or odd and at least 3.
    first: Number of the first field to write.
"""

classify = Kernel(_classify)
"""Write whether each unit stands still (0), stays on its straight line (1) or may leave it (2).

Args:
    slope, distance: Slope of the line and distance of its end, shape ``(n_examples, n_units)``.
    reach: Largest shift of a pre-activation of each example, shape ``(n_examples, 1)``.
    classes: Written, shape ``(n_examples, n_units)``.
    t_max: Written: largest change of a unit's output along its line, same shape.
    n_curved: Its one entry is increased by the number of units of class 2.
"""

largest_move = Kernel(_largest_move)
"""Write into ``largest (1,)`` the largest change of an output when a chosen unit's output changes by ``t_max``.

``chosen`` and ``t_max`` have shape ``(n_examples, n_units)``, the directions ``v`` shape
``(1 or n_examples, n_outputs, n_units)``.
"""

list_units = Kernel(_list_units)
"""List the chosen units of each example in ``units``, pad the rest with ``n_units``, and write the ``counts``."""

take_units = Kernel(_take_units)
"""Write the ``values (all examples, n_units)`` of the listed units into field number ``field`` of ``data``."""

transpose_inputs = Kernel(_transpose_inputs)
"""Write a layer's inputs ``z (n_examples, n_in)`` and a row of ones into ``inputs (n_in + 1, all examples)``.

Example 0 of ``z`` is example ``first`` of ``inputs``.

Also writes the largest absolute input of each example (at least one, the bias's),
``farthest (n_examples,)``, and the number of examples in which each input is not zero, ``counts (n_in + 1,)``.
"""

sparse_product = Kernel(_sparse_product)
"""Write ``x @ weights + biases`` for an ``x`` whose entries are mostly zero; all arrays in row-major order."""
