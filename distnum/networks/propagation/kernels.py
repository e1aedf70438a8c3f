"""The compiled inner loops of difference propagation.

For every row of a layer and every example whose input is not zero there, they follow all units of
the layer from the shift of their pre-activation to the change of the loss, and sum the changes.
Every operation is one IEEE operation (nothing is fused or reordered), in an order that depends on
the arguments alone. The interpreter lock is released.

A loop is made for a few constants (the number of terms of a series, how a unit's output changes),
which the compiler unrolls, so that the innermost loop fills the vector registers. Formulas and
loops share this file because Numba keeps machine code by the file of a loop: code made from a
formula in another file would stay in use after that formula is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import exp, expm1, log, log1p, tanh
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from distnum.networks.propagation.compiled import Kernel

__all__ = ["KINDS", "bent_kernel", "kinks_kernel", "outputs_kernel", "push_kernel", "straight_kernel"]

LINE, RELU, TANH, SIGMOID, SOFTPLUS, STEP, SIGN, QUANTIZE, USER = range(9)

KINDS = {
    "line": LINE,
    "relu": RELU,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "softplus": SOFTPLUS,
    "step": STEP,
    "sign": SIGN,
    "quantize": QUANTIZE,
}
"""Numbers of the formulas for the change of a unit's output; see ``activations.Move``."""

# Rows of a layer that are followed through later layers at once: they fill the vector registers.
_LANES = 8


@njit(nogil=True, error_model="numpy")
def _shared(kind: Any, d: Any) -> Any:
    """The part of ``_move`` that depends on the shift ``d`` alone, and so is shared by all units."""
    if kind == TANH:
        return tanh(d)
    if kind in (SIGMOID, SOFTPLUS):
        return expm1(d)
    return d


# tanh(x) = x - x^3/3 + 2 x^5/15 - ... In _TANH_TERMS: terms that are as exact as those of expm1 (the keys).
_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875)
_TANH_TERMS = {0: 0, 3: 2, 5: 4, 9: 8}


@njit(nogil=True, error_model="numpy")
def _shared_by_series(kind: Any, n_terms: Any, d: Any, dtype: Any) -> Any:
    """``_shared`` by series; exactly ``_shared`` if ``n_terms`` is zero."""
    if n_terms == 0:
        return _shared(kind, d)
    if kind == TANH:
        d2 = d * d
        series = dtype.type(_TANH_SERIES[n_terms - 1])
        for k in range(n_terms - 2, -1, -1):
            series = series * d2 + dtype.type(_TANH_SERIES[k])
        return d * series
    if kind in (SIGMOID, SOFTPLUS):
        return _expm1_by_series(n_terms, d, dtype)
    return d


@njit(nogil=True, error_model="numpy")
def _expm1_by_series(n_terms: Any, x: Any, dtype: Any) -> Any:
    """``expm1(x) = x + x^2 / 2! + ...``; exactly ``expm1`` if ``n_terms`` is zero."""
    if n_terms == 0:
        return expm1(x)
    one = dtype.type(1)
    series = one
    for k in range(n_terms, 1, -1):
        series = one + x * (one / dtype.type(k)) * series
    return x * series


@njit(nogil=True, error_model="numpy")
def _log_of_ratio(n_log_terms: Any, u: Any, v: Any, dtype: Any) -> Any:
    """``log((1 + u) / (1 + v))`` as ``2 atanh((u - v) / (2 + u + v))``; by ``log1p`` if ``n_log_terms`` is zero."""
    if n_log_terms == 0:
        return log1p(u) - log1p(v)
    one, two = dtype.type(1), dtype.type(2)
    r = (u - v) / (two + (u + v))
    r2 = r * r
    series = one / dtype.type(2 * n_log_terms - 1)
    for k in range(n_log_terms - 1, 0, -1):
        series = series * r2 + one / dtype.type(2 * k - 1)
    return two * (r * series)


@njit(nogil=True, error_model="numpy")
def _log_of_mean(p: Any, t: Any, v: Any) -> Any:
    """``log(sum_c p_c exp(t v_c))``, for sums so small that ``log1p(sum_c p_c expm1(t v_c))`` would cancel."""
    largest = t * v[0]
    for c in range(1, len(p)):
        largest = max(largest, t * v[c])
    total = largest - largest
    for c in range(len(p)):
        total += p[c] * exp(t * v[c] - largest)
    return log(total) + largest


@njit(nogil=True, error_model="numpy")
def _move(kind: Any, n_move_terms: Any, k0: Any, k1: Any, d: Any, e: Any, dtype: Any) -> Any:
    """``f(a + d) - f(a)`` of a unit with constants ``k0`` and ``k1``, by the identities in ``activations.py``.

    Args:
        kind: One of ``KINDS``' numbers.
        n_move_terms: Terms of the logarithm's series in ``softplus``; zero for ``log1p``.
        k0, k1: Results of ``Move.constants``.
        d: The shift.
        e: ``_shared(kind, d)``.
        dtype: Of all numbers.
    """
    zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
    if kind == LINE:
        return k0 * d
    if kind == RELU:
        return k1 * d + (one - k1) * max(d + min(k0, zero), -max(k0, zero))
    if kind in (TANH, SIGMOID):
        return k0 * e / (one + k1 * e)
    if kind == SOFTPLUS:
        return _log_of_ratio(n_move_terms, k0 * e, zero, dtype)
    if kind == STEP:
        return (one if k0 + d > zero else zero) - (one if k0 > zero else zero)
    if kind == SIGN:
        return np.sign(k0 + d) - np.sign(k0)
    half = one / two
    after = min(max(np.floor((k0 + d) * k1 + half), zero), k1)
    before = min(max(np.floor(k0 * k1 + half), zero), k1)
    return (after - before) / k1


@cache
def straight_kernel(n_terms: int, n_log_terms: int, compact: bool) -> Kernel:
    """Loop for units on a straight line of slope ``g``, at pairs of points ``+d`` and ``-d``.

    The output of a unit changes by ``g d`` and the loss by ``log(1 + u) - l g d`` with
    ``u = sum_k c_k (g d)^k``. With the odd part ``o`` and the even part ``e`` of ``u``, the
    difference of the logarithms at the two points is ``2 atanh(o / (1 + e))``: nothing cancels in it.

    Args:
        n_terms: Terms of the series ``u``, odd.
        n_log_terms: Terms of the series of ``atanh``; zero for a loss without logarithm.
        compact: Whether the entries of an example are some of the layer's units, not all in order.

    Returns:
        A function of

        - ``inputs (n_rows, all examples)`` of the layer, and the ``rows`` to take;
        - ``points (n_pairs, 2)``, shifts for an input of one, and ``weights (n_pairs,)`` of the pairs;
        - ``examples``, ``counts``, ``units`` and ``data`` as in ``kernel_inputs.UnitArrays``, with the
          ``n_terms + 1`` fields ``g l`` and ``c_k g^k``;
        - ``total (n_taken_rows, >= n_units)``, to which the weighted changes of the loss are added.
    """

    def kernel(
        inputs: Any, rows: Any, points: Any, weights: Any, examples: Any, counts: Any, units: Any, data: Any, total: Any
    ) -> None:
        dtype = inputs.dtype
        zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
        change = np.empty(units.shape[1], dtype)
        for i in range(len(rows)):
            sums = total[i]
            row = inputs[rows[i]]
            for example in range(len(examples)):
                z = row[examples[example]]
                if z == zero:
                    continue
                n = counts[example]
                c = data[example]
                for pair in range(len(points)):
                    d = points[pair, 0] * z
                    d2 = d * d
                    weight = two * weights[pair]
                    for j in range(n):
                        odd = c[n_terms, j]
                        for k in range(n_terms - 2, 0, -2):
                            odd = odd * d2 + c[k, j]
                        odd = odd * d
                        if n_log_terms > 0:
                            even = c[n_terms - 1, j]
                            for k in range(n_terms - 3, 0, -2):
                                even = even * d2 + c[k, j]
                            r = odd / (one + even * d2)
                            r2 = r * r
                            series = one / dtype.type(2 * n_log_terms - 1)
                            for k in range(n_log_terms - 1, 0, -1):
                                series = series * r2 + one / dtype.type(2 * k - 1)
                            odd = r * series
                        value = weight * (odd - d * c[0, j])
                        if not compact:
                            sums[j] += value
                        elif pair == 0:
                            change[j] = value
                        else:
                            change[j] += value
                if compact:
                    unit = units[example]
                    for j in range(n):
                        sums[unit[j]] += change[j]

    return Kernel(kernel)


@cache
def bent_kernel(
    kind: str | Callable[[float], float], n_terms: int, n_log_terms: int, n_move_terms: int, compact: bool
) -> Kernel:
    """Loop for units on a curve or over a kink, at any pair of points.

    As ``straight_kernel``, but ``t = f(a + d) - f(a)`` is computed at each point, and
    ``log((1 + u) / (1 + v))`` as ``2 atanh((u - v) / (2 + u + v))``.

    Args:
        kind: Name in ``KINDS``, or a compiled function ``f``.
        n_terms: Terms of the series ``u``.
        n_log_terms: Terms of the series of ``atanh``; zero for a loss without logarithm.
        n_move_terms: Terms of the logarithm's series in ``softplus``; zero for ``log1p``.
        compact: As in ``straight_kernel``.

    Returns:
        A function as ``straight_kernel`` returns, with the ``n_terms + 3`` fields: two constants of the
        unit's change, ``l``, and ``c_k``.
    """
    number = KINDS[kind] if isinstance(kind, str) else USER

    def kernel(
        inputs: Any, rows: Any, points: Any, weights: Any, examples: Any, counts: Any, units: Any, data: Any, total: Any
    ) -> None:
        dtype = inputs.dtype
        zero = dtype.type(0)
        change = np.empty(units.shape[1], dtype)
        for i in range(len(rows)):
            sums = total[i]
            row = inputs[rows[i]]
            for example in range(len(examples)):
                z = row[examples[example]]
                if z == zero:
                    continue
                n = counts[example]
                c = data[example]
                for pair in range(len(points)):
                    d1, d2 = points[pair, 0] * z, points[pair, 1] * z
                    e1, e2 = _shared(number, d1), _shared(number, d2)
                    weight = weights[pair]
                    for j in range(n):
                        k0, k1 = c[0, j], c[1, j]
                        t1 = _move(number, n_move_terms, k0, k1, d1, e1, dtype)
                        t2 = _move(number, n_move_terms, k0, k1, d2, e2, dtype)
                        u1 = c[n_terms + 2, j] * t1
                        u2 = c[n_terms + 2, j] * t2
                        for k in range(n_terms + 1, 2, -1):
                            u1 = (u1 + c[k, j]) * t1
                            u2 = (u2 + c[k, j]) * t2
                        value = u1 - u2
                        if n_log_terms > 0:
                            value = _log_of_ratio(n_log_terms, u1, u2, dtype)
                        value = weight * (value - (t1 - t2) * c[2, j])
                        if not compact:
                            sums[j] += value
                        elif pair == 0:
                            change[j] = value
                        else:
                            change[j] += value
                if compact:
                    unit = units[example]
                    for j in range(n):
                        sums[unit[j]] += change[j]

    return Kernel(kernel) if number != USER else _with_users_move(kernel, kind)


@cache
def outputs_kernel(kind: str | Callable[[float], float]) -> Kernel:
    """Loop for changes that are too large for a series: softmax cross-entropy from all outputs.

    Returns:
        A function as ``bent_kernel`` returns, with three fields in ``data`` and two more arguments: the
        probabilities ``p (n_examples, n_outputs)`` and the directions ``v (1 or n_examples, n_outputs, n_units)``.
    """
    number = KINDS[kind] if isinstance(kind, str) else USER

    def kernel(
        inputs: Any,
        rows: Any,
        points: Any,
        weights: Any,
        examples: Any,
        counts: Any,
        units: Any,
        data: Any,
        total: Any,
        p: Any,
        v: Any,
    ) -> None:
        dtype = inputs.dtype
        zero = dtype.type(0)
        for i in range(len(rows)):
            sums = total[i]
            row = inputs[rows[i]]
            for example in range(len(examples)):
                z = row[examples[example]]
                if z == zero:
                    continue
                c = data[example]
                probabilities = p[example]
                directions = v[example if len(v) > 1 else 0]
                for pair in range(len(points)):
                    d1, d2 = points[pair, 0] * z, points[pair, 1] * z
                    e1, e2 = _shared(number, d1), _shared(number, d2)
                    for j in range(counts[example]):
                        unit = units[example, j]
                        if unit >= directions.shape[1]:  # padding
                            continue
                        k0, k1 = c[0, j], c[1, j]
                        t1 = _move(number, 0, k0, k1, d1, e1, dtype)
                        t2 = _move(number, 0, k0, k1, d2, e2, dtype)
                        u1, u2 = zero, zero
                        for k in range(len(probabilities)):
                            u1 += probabilities[k] * expm1(t1 * directions[k, unit])
                            u2 += probabilities[k] * expm1(t2 * directions[k, unit])
                        if u1 < -0.5 or u2 < -0.5:
                            change = _log_of_mean(probabilities, t1, directions[:, unit])
                            change -= _log_of_mean(probabilities, t2, directions[:, unit])
                        else:
                            change = log1p(u1) - log1p(u2)
                        sums[unit] += weights[pair] * (change - (t1 - t2) * c[2, j])

    return Kernel(kernel) if number != USER else _with_users_move(kernel, kind)


@njit(nogil=True, error_model="numpy")
def _times_weights(changes: Any, weights: Any, n_in: Any, n_out: Any, product: Any) -> None:
    """Write the shifts of the ``n_out`` next pre-activations from the changes of the ``n_in`` outputs before.

    ``changes (>= n_in, lanes)``, ``weights (>= n_in * n_out,)`` and ``product (>= n_out, lanes)``.
    """
    zero = changes.dtype.type(0)
    for m in range(n_out):
        for lane in range(2 * _LANES):
            product[m, lane] = zero
    # Four outputs at once: the sums are read and written a quarter as often.
    n_fours = n_in - n_in % 4
    for k in range(0, n_fours, 4):
        some = False
        for lane in range(2 * _LANES):
            some |= changes[k, lane] != zero or changes[k + 1, lane] != zero
            some |= changes[k + 2, lane] != zero or changes[k + 3, lane] != zero
        if not some:
            continue
        for m in range(n_out):
            w0, w1 = weights[k * n_out + m], weights[(k + 1) * n_out + m]
            w2, w3 = weights[(k + 2) * n_out + m], weights[(k + 3) * n_out + m]
            for lane in range(2 * _LANES):
                product[m, lane] += (w0 * changes[k, lane] + w1 * changes[k + 1, lane]) + (
                    w2 * changes[k + 2, lane] + w3 * changes[k + 3, lane]
                )
    for k in range(n_fours, n_in):
        for m in range(n_out):
            w0 = weights[k * n_out + m]
            for lane in range(2 * _LANES):
                product[m, lane] += w0 * changes[k, lane]


@njit(nogil=True, error_model="numpy")
def _add_changes(
    deltas: Any,
    u: Any,
    slopes: Any,
    label: Any,
    loss: Any,
    moved: Any,
    unit: Any,
    weight: Any,
    total: Any,
) -> None:
    """Add the weighted changes of one example's loss for changes of its outputs, ``deltas (n_outputs, lanes)``.

    Args:
        deltas: The first half of the lanes belongs to a pair's first point, the second half to the second.
        u: Scratch space, shape ``(lanes,)``.
        slopes, label: ``LossPoint.factors`` and ``labels`` of the example.
        loss: Whether the loss is cross-entropy, and the numbers of terms of its two series.
        moved: The rows of ``total`` that the lanes belong to.
        unit: The column of ``total``.
        weight: Weight of the pair.
        total: Sums to add to.
    """
    dtype = deltas.dtype
    softmax, n_terms, n_log_terms = loss
    zero, two = dtype.type(0), dtype.type(2)
    for lane in range(2 * _LANES):
        u[lane] = zero
    for c in range(len(slopes)):
        slope = slopes[c]
        for lane in range(2 * _LANES):
            d = deltas[c, lane]
            if softmax:
                u[lane] += slope * _expm1_by_series(n_terms, d, dtype)
            else:
                u[lane] += d * (two * slope + d)
    for lane in range(len(moved)):
        first, second = u[lane], u[_LANES + lane]
        if softmax:
            if first < -0.5 or second < -0.5:
                change = _log_of_mean(slopes, dtype.type(1), deltas[:, lane])
                change -= _log_of_mean(slopes, dtype.type(1), deltas[:, _LANES + lane])
            else:
                change = _log_of_ratio(n_log_terms, first, second, dtype)
            change -= deltas[label, lane] - deltas[label, _LANES + lane]
        else:
            change = (first - second) / dtype.type(len(slopes))
        total[moved[lane], unit] += weight * change


@njit(nogil=True, error_model="numpy")
def _moved_rows(inputs: Any, rows: Any, example: Any, moved: Any) -> Any:
    """List the rows whose input is not zero in an example in ``moved``, and return their number."""
    n_moved = 0
    for i in range(len(rows)):
        moved[n_moved] = i
        n_moved += inputs[rows[i], example] != inputs.dtype.type(0)
    return n_moved


@cache
def push_kernel(kind: str | Callable[[float], float], loss: str, n_terms: int, n_log_terms: int) -> Kernel:
    """Loop that pushes the changes of units through all later layers as they are.

    Args:
        kind: As in ``bent_kernel``.
        loss: ``"cross_entropy"`` or ``"mean_squared_error"``.
        n_terms, n_log_terms: Terms of the series in the formulas of both; zero for the functions themselves.

    Returns:
        A function as ``bent_kernel`` returns, with two fields in ``data``, the constants of the unit's
        change, and six more arguments:

        - ``weights_of`` all layers in one flat array, the ``starts`` of the later layers in it, and
          their ``sizes``; the first layer's start is that of the first unit's row;
        - ``constants (n_examples, 2, n_later_hidden_units)`` of the later units' changes;
        - ``slopes (n_examples, n_outputs)`` and ``labels (n_examples,)`` of the loss, see ``losses.LossPoint``.
    """
    number = KINDS[kind] if isinstance(kind, str) else USER
    n_shared_terms = _TANH_TERMS[n_terms] if number == TANH else n_terms
    of_loss = (loss == "cross_entropy", n_terms, n_log_terms)

    def kernel(
        inputs: Any,
        rows: Any,
        points: Any,
        weights: Any,
        examples: Any,
        counts: Any,
        units: Any,
        data: Any,
        total: Any,
        weights_of: Any,
        starts: Any,
        sizes: Any,
        constants: Any,
        slopes: Any,
        labels: Any,
    ) -> None:
        dtype = inputs.dtype
        zero = dtype.type(0)
        both = 2 * _LANES  # the lanes of a pair's first point, then those of its second
        now, after = np.empty((max(sizes), both), dtype), np.empty((max(sizes), both), dtype)
        t, u = np.empty(both, dtype), np.empty(both, dtype)
        moved = np.empty(len(rows), np.int64)
        for example in range(len(examples)):
            n_moved = _moved_rows(inputs, rows, examples[example], moved)
            for j in range(counts[example]):
                unit = units[example, j]
                k0, k1 = data[example, 0, j], data[example, 1, j]
                for first in range(0, n_moved, _LANES):
                    n = min(_LANES, n_moved - first)
                    for pair in range(len(points)):
                        for lane in range(_LANES):
                            z = inputs[rows[moved[first + lane]], examples[example]] if lane < n else zero
                            for point in range(2):
                                d = points[pair, point] * z
                                e = _shared_by_series(number, n_shared_terms, d, dtype)
                                t[point * _LANES + lane] = _move(number, n_log_terms, k0, k1, d, e, dtype)
                        start = starts[0] + unit * sizes[0]
                        for k in range(sizes[0]):
                            w = weights_of[start + k]
                            for lane in range(both):
                                now[k, lane] = w * t[lane]
                        first_unit = 0
                        for layer in range(1, len(sizes)):
                            n_in, n_out = sizes[layer - 1], sizes[layer]
                            for k in range(n_in):
                                c0 = constants[example, 0, first_unit + k]
                                c1 = constants[example, 1, first_unit + k]
                                for lane in range(both):
                                    d = now[k, lane]
                                    e = _shared_by_series(number, n_shared_terms, d, dtype)
                                    now[k, lane] = _move(number, n_log_terms, c0, c1, d, e, dtype)
                            _times_weights(now, weights_of[starts[layer] :], n_in, n_out, after)
                            first_unit += n_in
                            now, after = after, now
                        changed = moved[first : first + n]
                        _add_changes(
                            now, u, slopes[example], labels[example], of_loss, changed, unit, weights[pair], total
                        )

    return Kernel(kernel) if number != USER else _with_users_move(kernel, kind)


@cache
def kinks_kernel(kind: str, loss: str, n_terms: int, n_log_terms: int) -> Kernel:
    """Loop for units whose change takes a few later units off their straight lines; see ``kinks.py``.

    Args:
        kind: Name in ``KINDS`` of a piecewise linear activation.
        loss, n_terms, n_log_terms: As in ``push_kernel``.

    Returns:
        A function as ``push_kernel`` returns up to ``total``, and then of

        - ``v (n_examples, n_outputs, n_units)``, the directions;
        - ``n_kinks (n_examples,)``, the number of later units off their lines, and their ``constants
          (n_examples, 2, most)`` and ``kink_slopes (n_examples, most)``;
        - ``to_units (n_examples, most, n_units)``, ``to_kinks (n_examples, most, most)`` and
          ``to_outputs (n_examples, n_outputs, most)`` of ``Kinks``, padded;
        - ``slopes`` and ``labels`` of the loss.
    """
    number = KINDS[kind]
    of_loss = (loss == "cross_entropy", n_terms, n_log_terms)

    def kernel(
        inputs: Any,
        rows: Any,
        points: Any,
        weights: Any,
        examples: Any,
        counts: Any,
        units: Any,
        data: Any,
        total: Any,
        v: Any,
        n_kinks: Any,
        constants: Any,
        kink_slopes: Any,
        to_units: Any,
        to_kinks: Any,
        to_outputs: Any,
        slopes: Any,
        labels: Any,
    ) -> None:
        dtype = inputs.dtype
        zero = dtype.type(0)
        both = 2 * _LANES
        kinks, deltas = np.empty((kink_slopes.shape[1], both), dtype), np.empty((v.shape[1], both), dtype)
        t, shift, u = np.empty(both, dtype), np.empty(both, dtype), np.empty(both, dtype)
        moved = np.empty(len(rows), np.int64)
        for example in range(len(examples)):
            n_moved = _moved_rows(inputs, rows, examples[example], moved)
            for j in range(counts[example]):
                unit = units[example, j]
                k0, k1 = data[example, 0, j], data[example, 1, j]
                for first in range(0, n_moved, _LANES):
                    n = min(_LANES, n_moved - first)
                    for pair in range(len(points)):
                        for lane in range(_LANES):
                            z = inputs[rows[moved[first + lane]], examples[example]] if lane < n else zero
                            for point in range(2):
                                d = points[pair, point] * z
                                t[point * _LANES + lane] = _move(number, 0, k0, k1, d, d, dtype)
                        for k in range(n_kinks[example]):
                            response = to_units[example, k, unit]
                            for lane in range(both):
                                shift[lane] = response * t[lane]
                            for earlier in range(k):
                                response = to_kinks[example, k, earlier]
                                for lane in range(both):
                                    shift[lane] += response * kinks[earlier, lane]
                            c0, c1 = constants[example, 0, k], constants[example, 1, k]
                            slope = kink_slopes[example, k]
                            for lane in range(both):
                                d = shift[lane]
                                kinks[k, lane] = _move(number, 0, c0, c1, d, d, dtype) - slope * d
                        for c in range(len(deltas)):
                            response = v[example, c, unit]
                            for lane in range(both):
                                deltas[c, lane] = response * t[lane]
                            for k in range(n_kinks[example]):
                                response = to_outputs[example, c, k]
                                for lane in range(both):
                                    deltas[c, lane] += response * kinks[k, lane]
                        changed = moved[first : first + n]
                        _add_changes(
                            deltas, u, slopes[example], labels[example], of_loss, changed, unit, weights[pair], total
                        )

    return Kernel(kernel)


def _with_users_move(kernel: Any, f: Any) -> Kernel:
    """The loop with a compiled function ``f`` of the user in place of ``_move``; its machine code is not kept."""

    @njit(nogil=True, error_model="numpy")
    def move(kind: Any, n_move_terms: Any, k0: Any, k1: Any, d: Any, e: Any, dtype: Any) -> Any:
        return f(k0 + d) - f(k0)

    # In place of the global name, not in a cell of the closure: the function does not become part of
    # the key by which Numba keeps machine code.
    namespace = kernel.__globals__ | {"_move": move}
    return Kernel(FunctionType(kernel.__code__, namespace, kernel.__name__, None, kernel.__closure__), keep=False)
