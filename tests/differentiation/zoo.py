"""A zoo of functions that are hard to differentiate, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["HEALTHY", "ZOO", "Animal", "rough"]


class Animal(NamedTuple):
    """A function of an array, where to differentiate it, and its derivative there.

    Attributes:
        fun, x: The function and the point.
        true: The derivative as a function of the point, which is rounded to the dtype of a test; NaN where the function
            has none, so that the entry must be flagged.
        unseen: Where the points of the stencil do not show that its step does not fit: names of schemes, of dtypes, or
            both, such as ``"forward float32"``.
    """

    fun: Callable[[Any], Any]
    x: list[float]
    true: Callable[[Any], Any]
    unseen: tuple[str, ...] = ()


def rough(z: float) -> float:
    """A number between -1 and 1 that looks random, but is always the same for the same argument."""
    fraction = math.sin(float(z) * 1e8 + math.sin(float(z) * 12345678.9)) * 43758.5453
    return 2 * (fraction - math.floor(fraction)) - 1


def none(x: Any) -> float:
    """No derivative."""
    return math.nan


ONE_POINT = ("forward", "backward")
# Steps of many periods; those of single precision are that long.
ALIASED = (*ONE_POINT, "float32")
ON_ONE_SIDE = ("forward", "forward2", "backward", "backward2")

HEALTHY = {
    "sum of squares": Animal(lambda x: float((x**2).sum()), [1.0, 2.0, 3.0], lambda x: 2 * x),
    "exp": Animal(lambda x: math.exp(x[0]), [0.7], lambda x: math.exp(x[0])),
    "sin": Animal(lambda x: math.sin(x[0]), [1.3], lambda x: math.cos(x[0])),
    "product": Animal(
        lambda x: float(x[0]) * math.exp(x[1] / 5),
        [3.0, -2.0],
        lambda x: [math.exp(x[1] / 5), float(x[0]) * math.exp(x[1] / 5) / 5],
    ),
    "large x": Animal(lambda x: float(x[0]) ** 2 * 1e-40, [1e18], lambda x: 2e-40 * float(x[0])),
    "large f": Animal(lambda x: 1e30 * math.sin(x[0]), [1.0], lambda x: 1e30 * math.cos(x[0])),
    "small f": Animal(lambda x: 1e-30 * math.sin(x[0]), [1.0], lambda x: 1e-30 * math.cos(x[0])),
    "outputs of very different size": Animal(
        lambda x: np.array([1e-12 * math.exp(x[0]), 1e9 * float(x[1]) ** 2, float(x[0] * x[1])]),
        [0.5, 2.1],
        lambda x: [[1e-12 * math.exp(x[0]), 0], [0, 2e9 * float(x[1])], [x[1], x[0]]],
    ),
}

ZOO = HEALTHY | {
    "quotient": Animal(lambda x: float(x[0] / x[1]), [3.0, -2.0], lambda x: [1 / x[1], -x[0] / x[1] ** 2]),
    "1e10 + x": Animal(lambda x: 1e10 + float(x[0]), [1.0], lambda x: 1),
    "1e10 + x^2": Animal(lambda x: 1e10 + float(x[0]) ** 2, [1.0], lambda x: 2 * x),
    "1e10 + sin": Animal(lambda x: 1e10 + math.sin(x[0]), [1.0], lambda x: math.cos(x[0])),
    "1e14 + sin": Animal(lambda x: 1e14 + math.sin(x[0]), [1.0], lambda x: math.cos(x[0])),
    "6 decimals": Animal(lambda x: round(float(x[0]) ** 2, 6), [1.3], lambda x: 2 * x),
    "3 decimals": Animal(lambda x: round(math.exp(x[0]), 3), [1.3], lambda x: math.exp(x[0])),
    "no decimals": Animal(lambda x: float(round(1000 * math.exp(x[0]))), [1.3], lambda x: 1000 * math.exp(x[0])),
    "single precision inside": Animal(
        lambda x: float(np.sin(np.float32(x[0])) * np.float32(1.1)), [1.3], lambda x: 1.1 * math.cos(x[0])
    ),
    "single precision inside, large": Animal(
        lambda x: float(np.sin(np.float32(x[0])) + np.float32(1e4)), [1.3], lambda x: math.cos(x[0])
    ),
    "log 1e-8": Animal(lambda x: float(np.log(x[0])), [1e-8], lambda x: 1 / x),
    "sqrt 1e-8": Animal(lambda x: float(np.sqrt(x[0])), [1e-8], lambda x: 0.5 / np.sqrt(x)),
    "1/x at 1e-8": Animal(lambda x: 1 / float(x[0]), [1e-8], lambda x: -1 / np.float64(x) ** 2),
    "sin(1e6 x)": Animal(
        lambda x: math.sin(1e6 * float(x[0])), [1.0], lambda x: 1e6 * math.cos(1e6 * float(x[0])), ALIASED
    ),
    "sin(1e6 x) at 0.3": Animal(
        lambda x: math.sin(1e6 * float(x[0])), [0.3], lambda x: 1e6 * math.cos(1e6 * float(x[0])), ALIASED
    ),
    "sin(1e5 x)": Animal(
        lambda x: math.sin(1e5 * float(x[0])), [1.0], lambda x: 1e5 * math.cos(1e5 * float(x[0])), ALIASED
    ),
    "sin(1e4 x)": Animal(
        lambda x: math.sin(1e4 * float(x[0])),
        [0.3],
        lambda x: 1e4 * math.cos(1e4 * float(x[0])),
        ("central8", "float32"),
    ),
    "2 + sin(1e5 x)": Animal(
        lambda x: 2 + math.sin(1e5 * float(x[0])), [1.0], lambda x: 1e5 * math.cos(1e5 * float(x[0])), ALIASED
    ),
    "odd, narrower than the step": Animal(
        lambda x: 5e5 * math.atan(1e6 * float(x[0])),
        [3e-9],
        lambda x: 5e11 / (1 + (1e6 * float(x[0])) ** 2),
        (*ONE_POINT, "float32"),
    ),
    "7 digits, root at 1e-9": Animal(
        lambda x: float(f"{1.4e-6 * np.sqrt(0.05 * float(x[0])):.7g}"),
        [1.249e-9],
        lambda x: 1.4e-6 * math.sqrt(0.05 / float(x[0])) / 2,
    ),
    "7 digits, large constant": Animal(
        lambda x: float(f"{3.6e5 + 30 * math.sin(float(x[0])):.7g}"),
        [0.006433],
        lambda x: 30 * math.cos(float(x[0])),
    ),
    "exp(-1/x)": Animal(
        lambda x: math.exp(-1 / float(x[0])), [0.01], lambda x: math.exp(-1 / float(x[0])) / float(x[0]) ** 2
    ),
    "exp(1000 x)": Animal(lambda x: math.exp(1000 * float(x[0])), [0.01], lambda x: 1e3 * math.exp(1e3 * float(x[0]))),
    "tanh(1e4 x)": Animal(lambda x: math.tanh(1e4 * float(x[0])), [0.0], lambda x: 1e4, ONE_POINT),
    "abs": Animal(lambda x: abs(float(x[0])), [0.0], none, ON_ONE_SIDE),
    "1000 + abs": Animal(lambda x: 1000 + abs(float(x[0])), [0.0], none, ON_ONE_SIDE),
    "relu": Animal(lambda x: max(0.0, float(x[0])) + 3 * float(x[0]), [0.0], none, ON_ONE_SIDE),
    "jump at x": Animal(lambda x: float(x[0] >= 1) + float(x[0]), [1.0], none, ("forward", "forward2")),
    "abs near": Animal(lambda x: abs(float(x[0])), [6e-7], lambda x: 1, ("backward float32", "backward2 float32")),
    "abs near, 1/3": Animal(lambda x: abs(float(x[0])), [2e-6], lambda x: 1, ("backward float32", "backward2 float32")),
    "abs near, 9/10": Animal(
        lambda x: abs(float(x[0])), [5.4e-6], lambda x: 1, ("backward float32", "backward2 float32")
    ),
    "jump within": Animal(lambda x: float(x[0] >= 1 + 1e-6) + float(x[0]), [1.0], lambda x: 1, ONE_POINT),
    "constant": Animal(lambda x: 3.0, [1.0], none),
    "one unused": Animal(lambda x: float(x[0]) ** 2, [1.0, 1.0], lambda x: [2 * x[0], math.nan]),
    "minimum": Animal(lambda x: float(((x - 1) ** 2).sum()) + 1, [1.0], lambda x: 0),
    "minimum of value 0": Animal(lambda x: float(((x - 1) ** 2).sum()), [1.0], lambda x: 0),
    "near a minimum": Animal(lambda x: float(x[0] - 1) ** 2 + 1, [1.0 + 1e-7], lambda x: 2 * (x - 1)),
    "quartic minimum": Animal(lambda x: float(x[0]) ** 4, [0.0], lambda x: 0),
    "Rosenbrock's minimum": Animal(
        lambda x: 100 * (float(x[1]) - float(x[0]) ** 2) ** 2 + (1 - float(x[0])) ** 2, [1.0, 1.0], lambda x: [0, 0]
    ),
    "value on one side": Animal(lambda x: float(x[0]) ** 2 if x[0] >= 1 else math.nan, [1.0], lambda x: 2 * x),
    "rough 1e-6": Animal(
        lambda x: math.sin(x[0]) + 1e-6 * rough(x[0]),
        [1.0],
        lambda x: math.cos(x[0]),
        ("forward", "backward", "central4", "central6", "central8", "forward2", "backward2"),
    ),
    "rough 1e-4": Animal(
        lambda x: math.sin(x[0]) + 1e-4 * rough(x[0]), [1.0], lambda x: math.cos(x[0]), (*ONE_POINT, "float32")
    ),
    "rough 1e-2": Animal(lambda x: math.sin(x[0]) + 1e-2 * rough(x[0]), [1.0], lambda x: math.cos(x[0]), ONE_POINT),
    "outputs that want different steps": Animal(
        lambda x: np.array([1e10 + float(x[0]), math.sin(1e5 * float(x[0])), float(x[0]) ** 2]),
        [1.0],
        lambda x: [[1], [1e5 * math.cos(1e5 * float(x[0]))], [2 * float(x[0])]],
        ALIASED,
    ),
}
