"""Taylor series of the loss along a unit's output, in a network with smooth activations.

When the output of a unit changes by ``t``, each later pre-activation and output changes by
``sum_k a_k t^k`` with ``k`` from 1 on. The coefficients are computed layer by layer: the
activation's own Taylor series at a pre-activation is composed with the series of its input, and
weights multiply each coefficient. The last step does the same for the loss. A series is computed
once for an example and a unit, and evaluated for each of the many weights into the unit.

Source: A. Griewank and A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapter 13
(arithmetic of truncated Taylor series).
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
    """Coefficients of the changes of the outputs, for ``t`` to ``t^n_terms``.

    Args:
        weights: Weights out of the units, ``(n_units, n_next)``, and of each later layer.
        preactivations: For each later hidden layer, shape ``(n_examples, n)``.
        activation: The activation of all hidden layers; it must have ``taylor``.
        n_terms: Number of coefficients.

    Returns:
        Shape ``(n_examples, n_units, n_terms, n_outputs)``.
    """
    assert activation.taylor is not None
    out_of_units, *later = weights
    outer = activation.taylor(preactivations[0], n_terms)
    series = np.empty((len(preactivations[0]), len(out_of_units), n_terms, out_of_units.shape[1]), out_of_units.dtype)
    _compose_with_line(outer, np.ascontiguousarray(out_of_units), series)
    for number, layer in enumerate(later):
        # One product for all examples, units and coefficients.
        product = series.reshape(-1, layer.shape[0]) @ layer
        series = product.reshape(*series.shape[:3], layer.shape[1])
        if number < len(later) - 1:
            _compose(activation.taylor(preactivations[number + 1], n_terms), series)
    return series


def loss_series(deltas: Array, loss: str, factors: Array, labels: NDArray[np.intp]) -> Array:
    """Coefficients of the change of the loss, shape ``(n_terms, n_examples, n_units)``.

    Args:
        deltas: Result of ``output_series``.
        loss: ``"cross_entropy"`` or ``"mean_squared_error"``.
        factors, labels: Of the loss at the base outputs of the examples, see ``losses.LossPoint``.
    """
    n_examples, n_units, n_terms, _ = deltas.shape
    series = np.empty((n_terms, n_examples, n_units), deltas.dtype)
    (_of_cross_entropy if loss == "cross_entropy" else _of_squared_error)(deltas, factors, labels, series)
    return series


def enough_terms(series: Array, t_max: Array, n_kept: int) -> bool:
    """Whether the terms after the first ``n_kept`` are below rounding, relative to the first term.

    Only the terms in ``series`` are tested, and those beyond are assumed to fall further. There
    should be two to test, because every other term of an odd or even function is zero.

    Args:
        series: Result of ``loss_series``.
        t_max: Largest change of each unit's output, shape ``(n_examples, n_units)``.
        n_kept: Number of terms to keep.
    """
    largest = (np.abs(series[0]) * t_max).max(axis=0) * (np.finfo(series.dtype).eps / 2)
    following = range(n_kept, len(series))
    return all(bool((np.abs(series[k]) * t_max ** (k + 1) <= largest).all()) for k in following)


def _compose_kernel(outer: Any, series: Any) -> None:
    zero = series.dtype.type(0)
    n_examples, n_units, n_terms, n = series.shape
    power, raised, composed = np.empty((3, n_terms, n), series.dtype)
    for example in range(n_examples):
        for unit in range(n_units):
            inner = series[example, unit]
            for k in range(n_terms):
                for i in range(n):
                    composed[k, i] = outer[0, example, i] * inner[k, i]
                    power[k, i] = inner[k, i]
            for m in range(1, n_terms):
                # Series of a(t)^(m + 1), whose first term is t^(m + 1).
                for k in range(m, n_terms):
                    for i in range(n):
                        raised[k, i] = zero
                    for first in range(k - m + 1):
                        for i in range(n):
                            raised[k, i] += inner[first, i] * power[k - first - 1, i]
                for k in range(m, n_terms):
                    for i in range(n):
                        power[k, i] = raised[k, i]
                        composed[k, i] += outer[m, example, i] * raised[k, i]
            for k in range(n_terms):
                for i in range(n):
                    inner[k, i] = composed[k, i]


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
                # Series of e = exp(delta): k e_k = sum_i i delta_i e_(k-i), with e_0 = 1.
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
                # Series of l = log(1 + u): k l_k = k u_k - sum_i i l_i u_(k-i).
                term = u[k]
                for i in range(k):
                    term -= dtype.type(i + 1) / dtype.type(k + 1) * series[i, example, unit] * u[k - i - 1]
                series[k, example, unit] = term
            for k in range(n_terms):
                series[k, example, unit] -= delta[k, labels[example]]


def _of_squared_error_kernel(deltas: Any, factors: Any, labels: Any, series: Any) -> None:
    dtype = deltas.dtype
    n_examples, n_units, n_terms, n = deltas.shape
    for example in range(n_examples):
        for unit in range(n_units):
            delta = deltas[example, unit]
            for k in range(n_terms):
                term = dtype.type(0)
                for c in range(n):
                    term += dtype.type(2) * factors[example, c] * delta[k, c]
                    for i in range(k):
                        term += delta[i, c] * delta[k - i - 1, c]
                series[k, example, unit] = term / dtype.type(n)


_compose = Kernel(_compose_kernel)
"""Replace ``series (n_examples, n_units, n_terms, n)`` of ``a(t) - a(0)`` by those of ``f(a(t)) - f(a(0))``.

``outer (n_terms, n_examples, n)`` are the coefficients of ``f`` at ``a(0)``. No series has a constant term.
"""

_compose_with_line = Kernel(_compose_with_line_kernel)
"""Write the same series for ``a(t) - a(0) = slope t``, with ``slopes (n_units, n)``."""
_of_cross_entropy = Kernel(_of_cross_entropy_kernel)
_of_squared_error = Kernel(_of_squared_error_kernel)
