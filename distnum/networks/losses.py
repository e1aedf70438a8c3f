"""Losses of a network: their values, and their exact changes when the outputs change.

A loss is a mean over the examples of a batch. In addition to its value, difference propagation needs
the change of the loss of *one* example when its outputs change by ``delta``, without subtracting
two nearly equal losses:

- softmax cross-entropy, with probabilities ``p`` at the base point and label ``y``:
  ``log1p(sum_c p_c expm1(delta_c)) - delta_y``
- mean squared error, with residuals ``r`` at the base point and ``C`` outputs:
  ``sum_c delta_c (2 r_c + delta_c) / C``

``LossPoint.change`` computes that for any ``delta``. All weights into one unit move the outputs along
the same direction, ``delta = t v``. The loss then changes by

    g(sum_k c_k t^k) - l t        with g = log1p for cross-entropy, and the identity otherwise,

with coefficients of the example and the unit: ``c_k = sum_c p_c v_c^k / k!`` and ``l = v_y`` for
cross-entropy; ``c_1 = 2 sum_c r_c v_c / C``, ``c_2 = sum_c v_c^2 / C`` and ``l = 0`` for the squared
error. A compiled pass sums them over the outputs once (``passes.write_series``), for many ``t``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, factorial, tanh
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError

__all__ = ["LOSSES", "CrossEntropy", "LossPoint", "SeriesLength", "get_loss", "series_length"]


class SeriesLength(NamedTuple):
    """Numbers of terms that are exact to rounding.

    Attributes:
        n_terms: Terms of the series in ``t``.
        n_log_terms: Terms of the series for the logarithm of a ratio, ``log((1 + x) / (1 - x))
            = 2 atanh(x) = 2 (x + x^3/3 + x^5/5 + ...)``; 0 for a loss without logarithm.
    """

    n_terms: int
    n_log_terms: int


# Few lengths, so that few loops are compiled. n_terms is odd, as kernels.py requires.
_LENGTHS = (SeriesLength(3, 2), SeriesLength(5, 3), SeriesLength(9, 8))


class LossPoint(Protocol):
    """A loss at the base outputs of some examples."""

    def change(self, example: int, delta: Array) -> Array:
        """Changes of one example's loss, shape ``(n,)``, for changes ``delta (n, n_outputs)`` of its outputs."""
        ...

    def length(self, largest: float, symmetric: bool) -> SeriesLength | None:
        """Length of the series for ``|t v_c| <= largest``; None if no series is short enough.

        Args:
            largest: May be infinite.
            symmetric: Whether only differences between ``t`` and ``-t`` are needed.
        """
        ...

    @property
    def factors(self) -> Array:
        """Probabilities ``p`` or residuals ``r``, shape ``(n_examples, n_outputs)``."""
        ...

    @property
    def labels(self) -> NDArray[np.intp]:
        """Label of each example, shape ``(n_examples,)``; zeros for a loss without labels."""
        ...


class Loss(Protocol):
    """A loss of a network's outputs, given the targets."""

    name: str

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        """Loss of each example, shape ``(n_examples,)``."""
        ...

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        """The loss at these outputs."""
        ...


def _one_hot(targets: NDArray[np.generic], like: Array) -> Array:
    """Targets in the shape of the outputs ``like``; labels become one-hot rows."""
    if targets.ndim == 2:
        return targets.astype(like.dtype, copy=False)
    rows = np.zeros_like(like)
    rows[np.arange(len(targets)), targets.astype(np.intp)] = 1
    return rows


def _labels(targets: NDArray[np.generic]) -> NDArray[np.intp]:
    """Targets as labels; one-hot rows (as in the article) become the index of their one."""
    if targets.ndim == 2:
        return targets.argmax(axis=1)
    return targets.astype(np.intp, copy=False)


class CrossEntropy:
    """Cross-entropy of the softmax of the outputs; targets are labels ``(n,)`` or one-hot rows ``(n, n_outputs)``."""

    name = "cross_entropy"

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        labels = _labels(targets)
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        return _CrossEntropyPoint(self.probabilities(outputs), _labels(targets))

    @staticmethod
    def probabilities(outputs: Array) -> Array:
        """Softmax of the outputs, shape ``(n_examples, n_outputs)``."""
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class _CrossEntropyPoint:
    factors: Array
    labels: NDArray[np.intp]

    def change(self, example: int, delta: Array) -> Array:
        p = self.factors[example]
        u = _sum_of_columns(p * np.expm1(delta))
        lost = u < -0.5  # 1 + u would cancel: the sum is computed anew
        changes = np.log1p(np.where(lost, 0, u))
        if lost.any():
            largest = delta[lost].max(axis=1)
            changes[lost] = np.log(_sum_of_columns(p * np.exp(delta[lost] - largest[:, None]))) + largest
        return changes - delta[:, self.labels[example]]

    def length(self, largest: float, symmetric: bool) -> SeriesLength | None:
        return series_length(largest, self.factors.dtype, symmetric)


class MeanSquaredError:
    """Mean over examples and outputs of the squared residual.

    Targets are real, shape ``(n, n_outputs)``, or labels ``(n,)``, which stand for one-hot rows.
    """

    name = "mean_squared_error"

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        residual = outputs - _one_hot(targets, outputs)
        return (residual * residual).mean(axis=1)

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        return _MeanSquaredErrorPoint(outputs - _one_hot(targets, outputs))


@dataclass(frozen=True)
class _MeanSquaredErrorPoint:
    factors: Array

    def change(self, example: int, delta: Array) -> Array:
        total = _sum_of_columns(delta * (2 * self.factors[example] + delta))
        return total / delta.shape[1]

    @property
    def labels(self) -> NDArray[np.intp]:
        return np.zeros(len(self.factors), np.intp)

    def length(self, largest: float, symmetric: bool) -> SeriesLength:
        return SeriesLength(3, 0)


def _sum_of_columns(columns: Array) -> Array:
    # One column at a time, so that the bits of a row's sum do not depend on the number of rows.
    total = columns[:, 0].copy()
    for column in columns.T[1:]:
        total += column
    return total


def series_length(largest: float, dtype: np.dtype, symmetric: bool = False) -> SeriesLength | None:
    """The shortest series that are exact to rounding for ``log(1 + sum_c p_c expm1(x_c))`` with ``|x_c| <= largest``.

    The remainder must be below rounding relative to the first term. After ``k`` terms the remainder
    of ``expm1(x) = x + x^2/2 + ...`` is at most ``largest^(k+1) e^largest / (k+1)!``; in a symmetric
    difference, whose even terms are added to 1, it is one power smaller. After ``n`` terms the remainder
    of ``atanh(r)``, relative to ``r``, is less than ``r^(2n) / ((2n + 1) (1 - r^2))``.

    Returns:
        None if no series is long enough.

    >>> series_length(1e-4, np.dtype(np.float64), symmetric=True)
    SeriesLength(n_terms=3, n_log_terms=2)
    """
    if not largest < 0.5:
        return None
    rounding = float(np.finfo(dtype).eps) / 2
    # 1 + sum_c p_c expm1(x_c) lies between e^-largest and e^largest, so does the ratio of two, squared.
    r = tanh(largest)
    for length in _LENGTHS:
        k, n = length
        remainder = largest ** (k + symmetric) * exp(largest) / factorial(k + 1)
        if remainder <= rounding and r ** (2 * n) / ((2 * n + 1) * (1 - r * r)) <= rounding:
            return length
    return None


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), MeanSquaredError())}


def get_loss(name: str) -> Loss:
    """The loss of a name.

    Raises:
        InputError: If no loss has that name.
    """
    try:
        return LOSSES[name]
    except (KeyError, TypeError):
        raise InputError(f"loss is {name!r}; it must be one of {', '.join(LOSSES)}.") from None
