"""The compiled inner loops of difference propagation.

For every row of a layer and every example whose input there is not zero, they follow all
units of the layer from the shift of their pre-activation to the change of the loss, and add
that up. Numba compiles them when they are first called and keeps the machine code on the
disk. Every operation is one IEEE operation (nothing is fused or reordered), in an order that
depends on the arguments alone; the interpreter lock is released.

A kernel is made for a few constants (how many terms a series has, how a unit moves), which
the compiler then unrolls, so that the loop over the units fills the vector registers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from math import expm1, log1p, tanh
from pickle import UnpicklingError
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit
from numba.core import event

__all__ = ["KINDS", "bent_kernel", "list_units", "outputs_kernel", "straight_kernel", "take_units"]

log = logging.getLogger("distnum")

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
"""How a unit can move; see ``activations.Move``."""


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once that something is compiled, which takes seconds; what the disk has kept is not."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            log.info("compiling ...  (once; the machine code is kept on the disk)")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


class _Kernel:
    """A loop, compiled when it is first called; its machine code is kept on the disk, unless told otherwise."""

    def __init__(self, function: Callable[..., None], keep: bool = True) -> None:
        self._function = function
        self._keep = keep
        self._compiled: Any = None

    def _compile(self, cache: bool) -> Any:
        return njit(cache=cache, nogil=True, error_model="numpy")(self._function)

    def __call__(self, *arguments: Any) -> None:
        """Run the loop; where machine code cannot be kept or read back, compile it anew."""
        try:
            if self._compiled is None:
                self._compiled = self._compile(cache=self._keep)
            self._compiled(*arguments)
        except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, ImportError) as error:
            # All of these come from the files of the cache, before anything has been computed.
            log.debug("compiled code is not kept: %s", error)
            self._compiled = self._compile(cache=False)
            self._compiled(*arguments)


@cache
def straight_kernel(n_terms: int, n_log_terms: int, compact: bool) -> _Kernel:
    """Units that move along a straight line, at pairs of points ``+d`` and ``-d``.

    The output of a unit moves by ``g d`` and the loss along it by ``log(1 + u) - l g d`` with
    ``u = sum_k c_k (g d)^k``. Split into its odd part ``o`` and its even part ``e``, the
    difference of the two logarithms is ``2 atanh(o / (1 + e))``: nothing cancels in it.

    Args:
        n_terms: of the series, odd.
        n_log_terms: of the series of ``atanh``; zero where there is no logarithm.
        compact: whether the units of an example are some of the layer's.

    Returns:
        a function of ``inputs (n_rows, all examples)``; ``rows`` to take; the pairs' ``points
        (n_pairs, 2)``, shifts for an input of one, and ``weights (n_pairs,)``; the
        ``examples (n_examples,)`` to take; for each of them how many of its units to take,
        ``counts (n_examples,)``, and which they are, ``units (n_examples, width)``; their
        ``data (n_examples, n_terms + 1, width)``: ``g l`` and ``c_k g^k``; and ``total
        (n_taken_rows, >= n_units)``, which is added to.
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

    return _Kernel(kernel)


@cache
def bent_kernel(
    kind: str | Callable[[float], float], n_terms: int, n_log_terms: int, n_move_terms: int, compact: bool
) -> _Kernel:
    """Units that move along a curve or over a kink, at any pair of points.

    As ``straight_kernel``, but ``t = f(a + d) - f(a)`` is computed at either point, and
    ``log((1 + u) / (1 + v))`` as ``2 atanh((u - v) / (2 + u + v))``.

    Args:
        kind: how a unit moves, of ``KINDS``, or a compiled function ``f``.
        n_terms: of the series.
        n_log_terms: of the series of ``atanh``; zero where there is no logarithm.
        n_move_terms: the same for the logarithm in ``softplus``; zero takes ``log1p``.
        compact: whether the units of an example are some of the layer's.

    Returns:
        a function as that of ``straight_kernel``, with ``data (n_examples, n_terms + 3,
        width)``: ``l``, the two constants of the unit's move, and ``c_k``.
    """
    number = KINDS[kind] if isinstance(kind, str) else USER

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
                    d1, d2 = points[pair, 0] * z, points[pair, 1] * z
                    e1, e2 = _shared(number, d1), _shared(number, d2)
                    weight = weights[pair]
                    for j in range(n):
                        k0, k1 = c[1, j], c[2, j]
                        t1 = _move(number, n_move_terms, k0, k1, d1, e1, dtype)
                        t2 = _move(number, n_move_terms, k0, k1, d2, e2, dtype)
                        u1 = c[n_terms + 2, j] * t1
                        u2 = c[n_terms + 2, j] * t2
                        for k in range(n_terms + 1, 2, -1):
                            u1 = (u1 + c[k, j]) * t1
                            u2 = (u2 + c[k, j]) * t2
                        value = u1 - u2
                        if n_log_terms > 0:
                            r = value / (two + (u1 + u2))
                            r2 = r * r
                            series = one / dtype.type(2 * n_log_terms - 1)
                            for k in range(n_log_terms - 1, 0, -1):
                                series = series * r2 + one / dtype.type(2 * k - 1)
                            value = two * (r * series)
                        value = weight * (value - (t1 - t2) * c[0, j])
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

    return _Kernel(kernel) if number != USER else _with_users_move(kernel, kind)


@cache
def outputs_kernel(kind: str | Callable[[float], float]) -> _Kernel:
    """Units whose moves are too long for a series: softmax cross-entropy from every output.

    Returns:
        a function as that of ``bent_kernel``, with ``data (n_examples, 3, width)`` and, at
        the end, the probabilities ``p (n_examples, n_outputs)`` and the directions
        ``v (1 or n_examples, n_units, n_outputs)``.
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
                        if unit >= directions.shape[0]:  # a filler
                            continue
                        k0, k1 = c[1, j], c[2, j]
                        t1 = _move(number, 0, k0, k1, d1, e1, dtype)
                        t2 = _move(number, 0, k0, k1, d2, e2, dtype)
                        u1, u2 = zero, zero
                        for k in range(len(probabilities)):
                            u1 += probabilities[k] * expm1(t1 * directions[unit, k])
                            u2 += probabilities[k] * expm1(t2 * directions[unit, k])
                        sums[unit] += weights[pair] * (log1p(u1) - log1p(u2) - (t1 - t2) * c[0, j])

    return _Kernel(kernel) if number != USER else _with_users_move(kernel, kind)


def _list_units(chosen: Any, units: Any, counts: Any) -> None:
    for example in range(len(chosen)):
        n = 0
        for unit in range(chosen.shape[1]):
            if chosen[example, unit]:
                units[example, n] = unit
                n += 1
        counts[example] = n


def _take_units(values: Any, units: Any, counts: Any, taken: Any) -> None:
    for example in range(len(units)):
        for j in range(counts[example]):
            taken[example, j] = values[example, units[example, j]]


list_units = _Kernel(_list_units)
"""Write the numbers of the chosen units of each example, one after the other, and how many they are."""

take_units = _Kernel(_take_units)
"""Write a value for each of these units."""


def _with_users_move(kernel: Any, f: Any) -> _Kernel:
    """The same loop around a compiled function of the user's, whose machine code is not kept."""

    @njit(nogil=True, error_model="numpy")
    def move(kind: Any, n_move_terms: Any, k0: Any, k1: Any, d: Any, e: Any, dtype: Any) -> Any:
        return f(k0 + d) - f(k0)

    # Standing for the global name, not for a cell of the closure, the functions here do not
    # become a part of the key by which Numba keeps machine code.
    namespace = kernel.__globals__ | {"_move": move}
    return _Kernel(FunctionType(kernel.__code__, namespace, kernel.__name__, None, kernel.__closure__), keep=False)


@njit(nogil=True, error_model="numpy")
def _shared(kind: Any, d: Any) -> Any:
    """What the moves of all units share at one shift ``d``."""
    if kind == TANH:
        return tanh(d)
    if kind in (SIGMOID, SOFTPLUS):
        return expm1(d)
    return d


@njit(nogil=True, error_model="numpy")
def _move(kind: Any, n_move_terms: Any, k0: Any, k1: Any, d: Any, e: Any, dtype: Any) -> Any:
    """``f(a + d) - f(a)`` of one unit with constants ``k0`` and ``k1``; the identities stand in ``activations.py``."""
    zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
    if kind == LINE:
        return k0 * d
    if kind == RELU:
        return k1 * d + (one - k1) * max(d + min(k0, zero), -max(k0, zero))
    if kind in (TANH, SIGMOID):
        return k0 * e / (one + k1 * e)
    if kind == SOFTPLUS:
        x = k0 * e
        if n_move_terms == 0:
            return log1p(x)
        r = x / (two + x)
        r2 = r * r
        series = one / dtype.type(2 * n_move_terms - 1)
        for k in range(n_move_terms - 1, 0, -1):
            series = series * r2 + one / dtype.type(2 * k - 1)
        return two * (r * series)
    if kind == STEP:
        return (one if k0 + d > zero else zero) - (one if k0 > zero else zero)
    if kind == SIGN:
        return np.sign(k0 + d) - np.sign(k0)
    half = one / two
    after = min(max(np.floor((k0 + d) * k1 + half), zero), k1)
    before = min(max(np.floor(k0 * k1 + half), zero), k1)
    return (after - before) / k1
