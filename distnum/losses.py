"""Losses of a network: their values, and their exact changes when the outputs move.

A loss is a mean over the examples of a batch. Beside its value, difference propagation
needs how the loss of *one* example changes when its outputs move by ``delta``; written
so that no two nearly equal losses are subtracted:

- softmax cross-entropy, with base probabilities ``p`` and label ``y``:
  ``log1p(sum_c p_c expm1(delta_c)) - delta_y``
- mean squared error, with residual ``r`` and ``C`` outputs:
  ``sum_c delta_c (2 r_c + delta_c) / C``

``change`` evaluates that for any ``delta``. ``along`` does the same for the many moves
along one direction per unit, ``delta = t v_j``, that all weights into a unit share: what
depends on the direction alone is summed over the outputs once, before the many ``t``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, factorial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distnum.errors import InputError

__all__ = ["LOSSES", "CrossEntropy", "Loss", "LossPoint", "MeanSquaredError", "Series", "get_loss"]

Array = NDArray[np.floating]
Along = Callable[[int, "NDArray[np.integer] | slice", Array], Array]

# A longer series is slower than evaluating the exponential for every output.
_LONGEST_SERIES = 9


@dataclass(frozen=True)
class Series:
    """Changes of the loss along one direction for each example and unit, as a short series in ``t``.

    The change is ``g(sum_k c_k t^k) - l t`` with ``k`` from 1, where ``g`` is ``log1p`` or the
    identity.

    Attributes:
        coefficients: ``c``, shape ``(n_examples, n_terms, n_units)``.
        linear: ``l``, shape ``(n_examples, n_units)``.
        n_log_terms: terms of ``log1p``'s own series that are exact to rounding; negative if
            they are too many, zero if ``g`` is the identity.
    """

    coefficients: Array
    linear: Array
    n_log_terms: int

    def __call__(self, example: int, units: NDArray[np.integer] | slice, t: Array) -> Array:
        c = self.coefficients[example][:, units, None]
        u = t * c[-1]
        for k in range(len(c) - 2, -1, -1):
            u += c[k]
            u *= t
        if self.n_log_terms:
            np.log1p(u, out=u)
            u -= t * self.linear[example][units, None]
        return u


class LossPoint(Protocol):
    """A loss at the base outputs of some examples, ready to be asked for its changes."""

    def change(self, example: int, delta: Array) -> Array:
        """Change of the example's loss for output changes ``delta`` of shape ``(n, n_outputs)``."""
        ...

    def along(self, examples: slice, v: Array, t_max: float) -> Along:
        """Changes of the loss along directions.

        Args:
            examples: which examples will be asked for.
            v: the directions, shape ``(n_units, n_outputs)`` if they are the same for all
                examples, else ``(n_examples in the slice, n_units, n_outputs)``.
            t_max: no ``|t|`` will be larger; may be infinite.

        Returns:
            a function of an example (counted from the start of the slice), an index of
            units, and ``t`` of shape ``(n_t,)`` or ``(n_chosen, n_t)``, which gives the
            changes of that example's loss, shape ``(n_chosen, n_t)``.
        """
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
        u = _weighted_columns(np.expm1(delta), self.p[example])
        return np.log1p(u) - delta[:, self.labels[example]]

    def along(self, examples: slice, v: Array, t_max: float) -> Along:
        p, labels = self.p[examples], self.labels[examples]
        shared = v.ndim == 2
        v_of_label = v.T[labels] if shared else v[np.arange(len(labels)), :, labels]
        largest = t_max * float(np.abs(v).max(initial=0.0))
        length = series_length(largest, p.dtype)
        if length is None:
            return self._along_every_output(p, v_of_label, v)

        # sum_c p_c expm1(t v_c) = sum_k t^k m_k, where m_k = sum_c p_c v_c^k / k!
        moments = np.empty((len(p), length, v_of_label.shape[1]), p.dtype)
        power = v
        for k in range(length):
            if k:
                power = power * v
            sums = p @ power.T if shared else (power @ p[:, :, None])[:, :, 0]
            moments[:, k] = sums / p.dtype.type(factorial(k + 1))
        return Series(moments, v_of_label, log_length(largest, p.dtype))

    def _along_every_output(self, p: Array, v_of_label: Array, v: Array) -> Along:
        def along(example: int, units: NDArray[np.integer] | slice, t: Array) -> Array:
            directions = (v if v.ndim == 2 else v[example])[units]
            u = p[example, 0] * np.expm1(t * directions[:, :1])
            for c in range(1, p.shape[1]):
                u += p[example, c] * np.expm1(t * directions[:, c : c + 1])
            np.log1p(u, out=u)
            u -= t * v_of_label[example][units][:, None]
            return u

        return along


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

    def along(self, examples: slice, v: Array, t_max: float) -> Along:
        residual = self.residual[examples]
        n_outputs = residual.dtype.type(residual.shape[1])
        squared = (v * v).sum(axis=-1) / n_outputs
        if v.ndim == 2:
            linear = 2 * (residual @ v.T) / n_outputs
        else:
            linear = 2 * (v @ residual[:, :, None])[:, :, 0] / n_outputs
        coefficients = np.stack([linear, np.broadcast_to(squared, linear.shape)], axis=1)
        return Series(coefficients, np.zeros_like(linear), 0)


def _weighted_columns(columns: Array, weights: Array) -> Array:
    # One column at a time, so that a row's sum does not depend on how many rows there are.
    total = weights[0] * columns[:, 0]
    for c in range(1, len(weights)):
        total += weights[c] * columns[:, c]
    return total


def series_length(largest: float, dtype: np.dtype) -> int | None:
    """How many terms of ``expm1(x) = x + x²/2 + ...`` are exact to rounding for ``|x| <= largest``.

    The terms left out after ``k`` are at most ``largest^(k+1) e^largest / (k+1)!``; beside
    the first term they must vanish in rounding. None if more would be needed than pay.

    >>> series_length(1e-4, np.dtype(np.float64))
    4
    """
    if not largest <= 1:
        return None
    eps = float(np.finfo(dtype).eps)
    for k in range(1, _LONGEST_SERIES + 1):
        if largest**k * exp(largest) / factorial(k + 1) <= eps / 2:
            return k
    return None


def log_length(largest: float, dtype: np.dtype) -> int:
    """How many terms of ``log1p(u) = u - u²/2 + ...`` are exact to rounding for ``|u| <= expm1(largest)``.

    Negative if more would be needed than pay.

    >>> log_length(1e-4, np.dtype(np.float64))
    4
    """
    u = exp(largest) - 1
    eps = float(np.finfo(dtype).eps)
    for n_terms in range(1, _LONGEST_SERIES + 1):
        if u**n_terms / (n_terms + 1) <= eps / 2 * (1 - u):
            return n_terms
    return -1


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
