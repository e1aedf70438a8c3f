"""Formulas of the smooth activations: values, changes without cancellation, Taylor series.

All functions are elementwise. ``a`` are pre-activations, ``d`` their changes. The *constants* of an activation are
what its change needs of ``a`` alone.
"""

from __future__ import annotations

import numpy as np

from distnum.common.arrays import Array

__all__ = [
    "own_constants",
    "sigmoid",
    "sigmoid_change",
    "sigmoid_constants",
    "sigmoid_taylor",
    "softplus",
    "softplus_change",
    "softplus_constants",
    "softplus_taylor",
    "tanh_change",
    "tanh_constants",
    "tanh_taylor",
]


def own_constants(a: Array) -> tuple[Array, Array]:
    """Constants of a formula that needs ``a`` alone."""
    return a, np.zeros_like(a)


def tanh_change(a: Array, d: Array) -> Array:
    """Return ``tanh(a + d) - tanh(a)``."""
    # tanh(a + d) - tanh(a) = (1 - z²) t / (1 + z t), where z = tanh(a), t = tanh(d).
    g, z = tanh_constants(a)
    t = np.tanh(d)
    return g * t / (1 + z * t)


def tanh_constants(a: Array) -> tuple[Array, Array]:
    """Return the derivative and the value of tanh at ``a``."""
    # 1 - z² = 1 / cosh²(a), which does not cancel where z is near 1.
    limit = a.dtype.type(0.45 * np.log(np.finfo(a.dtype).max))  # so that cosh² stays finite
    return 1 / np.cosh(np.clip(a, -limit, limit)) ** 2, np.tanh(a)


def tanh_taylor(a: Array, n: int) -> Array:
    """Return the first ``n`` Taylor coefficients of tanh at ``a`` without the value, shape ``(n, *a.shape)``."""
    # z' = 1 - z², so (k + 1) z_(k+1) = -sum_i z_i z_(k-i).
    series = np.empty((n + 1, *a.shape), a.dtype)
    series[1], series[0] = tanh_constants(a)
    for k in range(1, n):
        series[k + 1] = -sum(series[i] * series[k - i] for i in range(k + 1)) / (k + 1)
    return series[1:]


def sigmoid(a: Array) -> Array:
    """Return ``1 / (1 + exp(-a))``, without overflow."""
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


def sigmoid_change(a: Array, d: Array) -> Array:
    """Return ``sigmoid(a + d) - sigmoid(a)``."""
    # s(a + d) - s(a) = s(a) s(-a) e / (1 + s(a) e), where s is the sigmoid and e = expm1(d).
    g, s = sigmoid_constants(a)
    e = np.expm1(d)
    return g * e / (1 + s * e)


def sigmoid_constants(a: Array) -> tuple[Array, Array]:
    """Return the derivative and the value of the sigmoid at ``a``."""
    s = sigmoid(a)
    return s * sigmoid(-a), s


def sigmoid_taylor(a: Array, n: int) -> Array:
    """Return the first ``n`` Taylor coefficients of the sigmoid at ``a`` without the value, as ``tanh_taylor``."""
    # s' = s - s², so (k + 1) s_(k+1) = s_k - sum_i s_i s_(k-i).
    series = np.empty((n + 1, *a.shape), a.dtype)
    series[1], series[0] = sigmoid_constants(a)
    for k in range(1, n):
        series[k + 1] = (series[k] - sum(series[i] * series[k - i] for i in range(k + 1))) / (k + 1)
    return series[1:]


def softplus(a: Array) -> Array:
    """Return ``log(1 + exp(a))``, without overflow."""
    return np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))


def softplus_change(a: Array, d: Array) -> Array:
    """Return ``softplus(a + d) - softplus(a)``."""
    # log(1 + e^(a + d)) - log(1 + e^a) = log1p(s(a) expm1(d)), where s is the sigmoid.
    return np.log1p(sigmoid(a) * np.expm1(d))


def softplus_constants(a: Array) -> tuple[Array, Array]:
    """Return the derivative of softplus at ``a``, and zeros."""
    return own_constants(sigmoid(a))


def softplus_taylor(a: Array, n: int) -> Array:
    """Return the first ``n`` Taylor coefficients of softplus at ``a`` without the value, as ``tanh_taylor``."""
    # The derivative of softplus is the sigmoid.
    series = np.empty((n, *a.shape), a.dtype)
    series[0] = sigmoid(a)
    series[1:] = sigmoid_taylor(a, n - 1)
    return series / np.arange(1, n + 1, dtype=a.dtype).reshape(-1, *(1,) * a.ndim)
