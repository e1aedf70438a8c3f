"""Optimisers and learning-rate schedules, as pure functions.

An update takes the gradient, the optimiser's state and the parameters, and returns new
parameters and a new state; it changes none of its arguments. A state is a dict of arrays
shaped like the parameters, so that a checkpoint can hold it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import TypeAlias

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "OptimizerState", "Schedule", "clip"]
OptimizerState: TypeAlias = dict[str, Array]
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
SCHEDULES = ("constant", "cosine", "step")

# A sum of squares between this and its inverse has neither overflowed nor lost digits.
_LEAST_SQUARE = 1e-200
_SLOTS = {"sgd": (), "momentum": ("velocity",), "nesterov": ("velocity",), "adam": ("mean", "square")}


@dataclass(frozen=True)
class Optimizer:
    """One rule for applying a gradient ``g`` with learning rate ``r``.

    - ``sgd``: ``p - r g``
    - ``momentum``: ``v = m v + g``, ``p - r v`` (Polyak 1964)
    - ``nesterov``: ``v = m v + g``, ``p - r (g + m v)`` (Sutskever et al. 2013, section 2)
    - ``adam``: Kingma and Ba 2015, algorithm 1

    Weight decay is decoupled from the gradient: ``p`` also loses ``r * weight_decay * p``
    (Loshchilov and Hutter 2019). For plain SGD this is the same as an L2 penalty.

    Attributes:
        name: Name of the rule.
        momentum: ``m`` above.
        beta1, beta2, epsilon: Constants of Adam.
        weight_decay: Coefficient of the decay, not negative.
    """

    name: str = "sgd"
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise InputError(f"optimizer is {self.name!r}; it must be one of {', '.join(OPTIMIZERS)}.")

    def initial_state(self, params: Array) -> OptimizerState:
        """The state before the first update: zeros."""
        return {slot: np.zeros_like(params) for slot in _SLOTS[self.name]}

    def update(
        self, grad: Array, state: OptimizerState, params: Array, learning_rate: float, step: int
    ) -> tuple[Array, OptimizerState]:
        """The parameters and the state after update number ``step``, counted from 1."""
        direction, state = self._direction(grad, state, step)
        if self.weight_decay:
            direction = direction + self.weight_decay * params
        # In this order the sum is computed in the memory of the product.
        return (-learning_rate * direction + params).astype(params.dtype, copy=False), state

    def _direction(self, grad: Array, state: OptimizerState, step: int) -> tuple[Array, OptimizerState]:
        if self.name == "sgd":
            return grad, state
        if self.name == "adam":
            mean = self.beta1 * state["mean"] + (1 - self.beta1) * grad
            square = self.beta2 * state["square"] + (1 - self.beta2) * (grad * grad)
            unbiased_mean = mean / (1 - self.beta1**step)
            unbiased_square = square / (1 - self.beta2**step)
            return unbiased_mean / (np.sqrt(unbiased_square) + self.epsilon), {"mean": mean, "square": square}
        velocity = self.momentum * state["velocity"] + grad
        direction = grad + self.momentum * velocity if self.name == "nesterov" else velocity
        return direction, {"velocity": velocity}


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step.

    - ``constant``: always the same
    - ``cosine``: from the full rate to zero over ``steps`` steps (Loshchilov and Hutter 2017)
    - ``step``: times ``factor`` after every ``every`` steps

    >>> Schedule("step", 0.1, steps=100, every=30, factor=0.5).at(31)
    0.05
    """

    name: str
    learning_rate: float
    steps: int
    every: int = 300
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f"schedule is {self.name!r}; it must be one of {', '.join(SCHEDULES)}.")

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        done = step - 1
        if self.name == "cosine":
            return self.learning_rate * 0.5 * (1 + cos(pi * min(1.0, done / self.steps)))
        if self.name == "step":
            return self.learning_rate * self.factor ** (done // self.every)
        return self.learning_rate


def clip(grad: Array, largest_norm: float | None) -> tuple[Array, float]:
    """The gradient, scaled down to ``largest_norm`` if its norm is larger, and its norm before that."""
    in_double = grad.astype(np.float64, copy=False)
    with np.errstate(over="ignore"):
        square = float(np.dot(in_double, in_double))
    norm = sqrt(square) if _LEAST_SQUARE < square < 1 / _LEAST_SQUARE else _scaled_norm(in_double)
    if largest_norm is not None and norm > largest_norm:
        grad = grad * grad.dtype.type(largest_norm / norm)
    return grad, norm


def _scaled_norm(grad: Array) -> float:
    """The norm of a gradient whose squares overflow or vanish."""
    largest = float(np.abs(grad).max(initial=0.0))
    return largest * float(np.sqrt(np.square(grad / largest).sum())) if largest else 0.0
