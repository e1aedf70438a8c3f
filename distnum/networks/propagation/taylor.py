"""How the loss answers the output of a unit in a smooth network: a truncated Taylor series, a *jet*.

When the output of a unit moves by ``t``, each later pre-activation and output moves along a smooth
curve, ``sum_k a_k t^k``. Its coefficients are found layer by layer: those of the activation's own
Taylor series at a pre-activation, composed with those of what goes into it; weights multiply each
of them. At the end the loss itself is such a series: found once for an example and a unit, it is
evaluated for each of the many weights into the unit. (Truncated series as numbers: A. Griewank and
A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapter 13.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.networks.activations import Activation
from distnum.networks.propagation.compiled import Kernel

__all__ = ["enough_terms", "loss_series", "output_series"]


def output_series(
    weights: Sequence[Array], preactivations: Sequence[Array], activation: Activation, n_terms: int
) -> Array:
    """How the outputs answer, as ``delta_k`` of ``sum_k delta_k t^k`` with ``k`` from 1 on.

    Args:
        weights: out of the units that move, ``(n_units, n_next)``, and of each later layer.
        preactivations: of the later hidden layers, ``(n_examples, n)`` each.
        activation: of them all, with a ``taylor``.
        n_terms: how many coefficients.

    Returns:
        shape ``(n_examples, n_units, n_terms, n_outputs)``.
    """
    assert activation.taylor is not None
    into, *later = weights
    taylor = activation.taylor(preactivations[0], n_terms)
    series = np.empty((len(preactivations[0]), len(into), n_terms, into.shape[1]), into.dtype)
    _compose_with_line(taylor, np.ascontiguousarray(into), series)
    for number, layer in enumerate(later):
        # One product for all examples, units and coefficients.
        product = series.reshape(-1, layer.shape[0]) @ layer
        series = product.reshape(*series.shape[:3], layer.shape[1])
        if number < len(later) - 1:
            _compose(activation.taylor(preactivations[number + 1], n_terms), series)
    return series


def loss_series(deltas: Array, loss: str, factors: Array, labels: NDArray[np.intp]) -> Array:
    """The series of the change of the loss, ``(n_terms, n_examples, n_units)``, from those of the outputs.

    Args:
        deltas: of ``output_series``.
        loss: ``"cross_entropy"`` or ``"mean_squared_error"``.
        factors, labels: of the loss at the base outputs of the examples, see ``losses.LossPoint``.
    """
    n_examples, n_units, n_terms, _ = deltas.shape
    series = np.empty((n_terms, n_examples, n_units), deltas.dtype)
    (_of_cross_entropy if loss == "cross_entropy" else _of_squared_error)(deltas, factors, labels, series)
    return series


def enough_terms(series: Array, t_max: Array, n_kept: int) -> bool:
    """Whether the terms after the first ``n_kept`` vanish in rounding beside the first term.

    Those that are there must, and are taken to go on so; there should be two, as every other one
    of an odd or even function is zero.

    Args:
        jets: of ``loss_series``.
        t_max: the farthest that each unit's output moves, ``(n_examples, n_units)``.
    """
    largest = (np.abs(series[0]) * t_max).max(axis=0) * (np.finfo(series.dtype).eps / 2)
    following = range(n_kept, len(series))
    return all(bool((np.abs(series[k]) * t_max ** (k + 1) <= largest).all()) for k in following)


def _compose_kernel(outer: Any, series: Any) -> None:
    zero = series.dtype.type(0)
    n_examples, n_units, n_terms, n = series.shape
    power, raised, found = np.empty((3, n_terms, n), series.dtype)
    for example in range(n_examples):
        for unit in range(n_units):
            inner = series[example, unit]
            for k in range(n_terms):
                for i in range(n):
                    found[k, i] = outer[0, example, i] * inner[k, i]
                    power[k, i] = inner[k, i]
            for m in range(1, n_terms):
                # The series of a(t)^(m + 1), which begins with t^(m + 1).
                for k in range(m, n_terms):
                    for i in range(n):
                        raised[k, i] = zero
                    for first in range(k - m + 1):
                        for i in range(n):
                            raised[k, i] += inner[first, i] * power[k - first - 1, i]
                for k in range(m, n_terms):
                    for i in range(n):
                        power[k, i] = raised[k, i]
                        found[k, i] += outer[m, example, i] * raised[k, i]
            inner[:] = found


def _compose_with_line_kernel(outer: Any, slopes: Any, series: Any) -> None:
    for example in range(series.shape[0]):
        for unit in range(series.shape[1]):
            for i in range(series.shape[3]):
                slope = slopes[unit, i]
                power = slope
                for k in range(series.shape[2]):
                    series[example, unit, k, i] = outer[k, example, i] * power
                    power = power * slope


def _of_cross_entropy_kernel(deltas: Any, factors: Any, labels: Any, series: Any) -> None:
    dtype = deltas.dtype
    zero = dtype.type(0)
    n_examples, n_units, n_terms, n = deltas.shape
    e, u = np.empty((n_terms, n), dtype), np.empty(n_terms, dtype)
    for example in range(n_examples):
        for unit in range(n_units):
            delta = deltas[example, unit]
            for k in range(n_terms):
                # Of e = exp(delta): k e_k = sum_i i delta_i e_(k-i), with e_0 = 1.
                u[k] = zero
                for c in range(n):
                    e[k, c] = delta[k, c]
                for i in range(k):
                    factor = dtype.type(i + 1) / dtype.type(k + 1)
                    for c in range(n):
                        e[k, c] += factor * delta[i, c] * e[k - i - 1, c]
                for c in range(n):
                    u[k] += factors[example, c] * e[k, c]
            for k in range(n_terms):
                # Of l = log(1 + u): k l_k = k u_k - sum_i i l_i u_(k-i).
                found = u[k]
                for i in range(k):
                    found -= dtype.type(i + 1) / dtype.type(k + 1) * series[i, example, unit] * u[k - i - 1]
                series[k, example, unit] = found
            for k in range(n_terms):
                series[k, example, unit] -= delta[k, labels[example]]


def _of_squared_error_kernel(deltas: Any, factors: Any, labels: Any, series: Any) -> None:
    dtype = deltas.dtype
    n_examples, n_units, n_terms, n = deltas.shape
    for example in range(n_examples):
        for unit in range(n_units):
            delta = deltas[example, unit]
            for k in range(n_terms):
                found = dtype.type(0)
                for c in range(n):
                    found += dtype.type(2) * factors[example, c] * delta[k, c]
                    for i in range(k):
                        found += delta[i, c] * delta[k - i - 1, c]
                series[k, example, unit] = found / dtype.type(n)


_compose = Kernel(_compose_kernel)
"""Put the series of ``f(a(t))`` where those of ``a(t)`` stood, ``(n_examples, n_units, n_terms, n)``;
those of ``f`` at ``a(0)`` are ``outer (n_terms, n_examples, n)``. None has the constant term."""

_compose_with_line = Kernel(_compose_with_line_kernel)
"""The same for ``a(t) - a(0) = slope t`` with the ``slopes (n_units, n)``."""
_of_cross_entropy = Kernel(_of_cross_entropy_kernel)
_of_squared_error = Kernel(_of_squared_error_kernel)
