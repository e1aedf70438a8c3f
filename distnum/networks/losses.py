"""Losses of a network: their values, and their exact changes when the outputs move.

A loss is a mean over the examples of a batch. Beside its value, difference propagation
needs how the loss of *one* example changes when its outputs move by ``delta``; written
so that no two nearly equal losses are subtracted:

- softmax cross-entropy, with base probabilities ``p`` and label ``y``:
  ``log1p(sum_c p_c expm1(delta_c)) - delta_y``
- mean squared error, with residual ``r`` and ``C`` outputs:
  ``sum_c delta_c (2 r_c + delta_c) / C``

``change`` evaluates that for any ``delta``. The many moves along one direction per unit,
``delta = t v``, that all weights into a unit share, change it by

    g(sum_k c_k t^k) - l t        with g = log1p, or nothing,

whose coefficients belong to the example and the unit: ``c_k = sum_c p_c v_c^k / k!`` and ``l = v_y``
for the first, ``c_1 = 2 sum_c r_c v_c / C`` and ``c_2 = sum_c v_c^2 / C`` for the second. A compiled
loop sums them over the outputs once (``layouts.series_kernel``), before the many ``t``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, factorial, tanh
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError

__all__ = [
    "LOSSES",
    "CrossEntropy",
    "Loss",
    "LossPoint",
    "MeanSquaredError",
    "SeriesLength",
    "get_loss",
    "series_length",
]


class SeriesLength(NamedTuple):
    """How many terms are exact to rounding: of the series in ``t``, and of the series of ``atanh``.

    The logarithm of a ratio is taken as ``log((1 + x) / (1 - x)) = 2 atanh(x)
    = 2 (x + x^3/3 + x^5/5 + ...)``; no terms of it where there is no logarithm.
    """

    n_terms: int
    n_log_terms: int


# A few lengths, so that few loops need be compiled; odd, as ``kernels.py`` wants them.
_LENGTHS = (SeriesLength(3, 2), SeriesLength(5, 3), SeriesLength(9, 8))


class LossPoint(Protocol):
    """A loss at the base outputs of some examples, ready to be asked for its changes."""

    def change(self, example: int, delta: Array) -> Array:
        """Change of the example's loss for output changes ``delta`` of shape ``(n, n_outputs)``."""
        ...

    def length(self, largest: float, symmetric: bool) -> SeriesLength | None:
        """The length of the series for ``|t v_c| <= largest``; None if it would not pay.

        Args:
            largest: may be infinite.
            symmetric: whether only differences between ``t`` and ``-t`` are asked for.
        """
        ...

    @property
    def factors(self) -> Array:
        """Shape ``(n_examples, n_outputs)``: the probabilities ``p``, or the residuals ``r``."""
        ...

    @property
    def labels(self) -> NDArray[np.intp]:
        """The label of each example, shape ``(n_examples,)``; zeros for a loss that has none."""
        ...


class Loss(Protocol):
    """The loss of a network's outputs against the targets."""

    name: str

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        """The loss of each example, shape ``(n_examples,)``."""
        ...

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        """The loss at these outputs, ready to be asked for its changes."""
        ...


def _one_hot(targets: NDArray[np.generic], like: Array) -> Array:
    """Targets as an array shaped like the outputs: labels become one-hot rows."""
    if targets.ndim == 2:
        return targets.astype(like.dtype, copy=False)
    rows = np.zeros_like(like)
    rows[np.arange(len(targets)), targets.astype(np.intp)] = 1
    return rows


def _labels(targets: NDArray[np.generic]) -> NDArray[np.intp]:
    """Targets as labels: one-hot rows (as in the article) become the index of their one."""
    if targets.ndim == 2:
        return targets.argmax(axis=1)
    return targets.astype(np.intp, copy=False)


class CrossEntropy:
    """Softmax cross-entropy of labels ``(n,)``, or of one-hot rows ``(n, n_outputs)``."""

    name = "cross_entropy"

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        labels = _labels(targets)
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return _CrossEntropyPoint(e / e.sum(axis=1, keepdims=True), _labels(targets))


@dataclass(frozen=True)
class _CrossEntropyPoint:
    p: Array
    labels: NDArray[np.intp]

    def change(self, example: int, delta: Array) -> Array:
        p = self.p[example]
        u = _weighted_columns(np.expm1(delta), p)
        lost = u < -0.5  # then most of the one has been taken away: the sum is formed anew
        found = np.log1p(np.where(lost, 0, u))
        if lost.any():
            largest = delta[lost].max(axis=1)
            found[lost] = np.log(_weighted_columns(np.exp(delta[lost] - largest[:, None]), p)) + largest
        return found - delta[:, self.labels[example]]

    def length(self, largest: float, symmetric: bool) -> SeriesLength | None:
        return series_length(largest, self.p.dtype, symmetric)

    @property
    def factors(self) -> Array:
        return self.p


class MeanSquaredError:
    """Mean over examples and outputs of the squared residual.

    Targets are real, shape ``(n, n_outputs)``, or labels, taken as one-hot rows.
    """

    name = "mean_squared_error"

    def values(self, outputs: Array, targets: NDArray[np.generic]) -> Array:
        residual = outputs - _one_hot(targets, outputs)
        return (residual * residual).mean(axis=1)

    def at(self, outputs: Array, targets: NDArray[np.generic]) -> LossPoint:
        return _MeanSquaredErrorPoint(outputs - _one_hot(targets, outputs))


@dataclass(frozen=True)
class _MeanSquaredErrorPoint:
    residual: Array

    def change(self, example: int, delta: Array) -> Array:
        n_outputs = delta.shape[1]
        total = delta[:, 0] * (2 * self.residual[example, 0] + delta[:, 0])
        for c in range(1, n_outputs):
            total += delta[:, c] * (2 * self.residual[example, c] + delta[:, c])
        return total / self.residual.dtype.type(n_outputs)

    @property
    def factors(self) -> Array:
        return self.residual

    @property
    def labels(self) -> NDArray[np.intp]:
        return np.zeros(len(self.residual), np.intp)

    def length(self, largest: float, symmetric: bool) -> SeriesLength:
        return SeriesLength(3, 0)


def _weighted_columns(columns: Array, weights: Array) -> Array:
    # One column at a time, so that a row's sum does not depend on how many rows there are.
    total = weights[0] * columns[:, 0]
    for c in range(1, len(weights)):
        total += weights[c] * columns[:, c]
    return total


def series_length(largest: float, dtype: np.dtype, symmetric: bool = False) -> SeriesLength | None:
    """The shortest series that are exact to rounding for ``log(1 + sum_c p_c expm1(x_c))``, ``|x_c| <= largest``.

    What is left out must vanish in rounding beside the first term. Of ``expm1(x) =
    x + x^2/2 + ...`` after ``k`` terms at most ``largest^(k+1) e^largest / (k+1)!`` is left
    out; in a symmetric difference, whose even terms enter beside one, one power more. Of
    ``atanh(r)`` after ``n`` terms, beside ``r``, less than ``r^(2n) / ((2n + 1) (1 - r^2))``.
    None if no series at hand is long enough.

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
        left_out = largest ** (k + symmetric) * exp(largest) / factorial(k + 1)
        if left_out <= rounding and r ** (2 * n) / ((2 * n + 1) * (1 - r * r)) <= rounding:
            return length
    return None


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), MeanSquaredError())}


def get_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        InputError: no loss has that name.
    """
    try:
        return LOSSES[name]
    except (KeyError, TypeError):
        raise InputError(f"loss is {name!r}; it must be one of {', '.join(LOSSES)}.") from None
