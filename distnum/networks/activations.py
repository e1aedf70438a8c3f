"""Activations: their values, their exact changes, and where they are straight lines.

Difference propagation needs three things of an activation ``f``:

- ``value(a)``: ``f(a)``.
- ``change(a, d)``: ``f(a + d) - f(a)``, computed without subtracting two nearly equal numbers
  wherever ``f`` has an identity for it.
- ``kink_distance(a)``: how far ``a`` can move either way while ``f`` stays on the straight line of
  slope ``slope(a)``. Within that distance a change passes through ``f`` exactly in proportion. A
  smooth curve has distance 0, a straight line infinity; a step function is a line of slope 0
  between its jumps.

All of them are elementwise and keep the dtype of ``a``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.networks import smooth
from distnum.networks.smooth import own_constants

__all__ = ["ACTIVATIONS", "CUSTOM", "FAMILIES", "PLAIN", "Activation", "Move", "get_activation"]


def _curved(a: Array) -> Array:
    """Zeros: the kink distance of a curve, or the slope of a flat line."""
    return np.zeros_like(a)


def _difference(value: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """The change of a function as the difference of two of its values."""
    return lambda a, d: value(a + d) - value(a)


@dataclass(frozen=True)
class Move:
    """How a compiled loop computes the change of a unit's output.

    Attributes:
        kind: A name in ``kernels.KINDS``, or a function of one number that Numba has compiled.
        constants: Returns two numbers for each pre-activation ``a``; the loop computes the change from
            them and the shift, see ``kernels.py``.
        largest: Largest shift for which the formula holds.
    """

    kind: str | Callable[[float], float]
    constants: Callable[[Array], tuple[Array, Array]]
    largest: float = float("inf")


@dataclass(frozen=True)
class Activation:
    """An elementwise function, with what difference propagation needs of it.

    Attributes:
        name: Its name on the command line and in files.
        value: Returns ``f(a)``.
        change: Returns ``f(a + d) - f(a)``; ``a`` and ``d`` are broadcast.
        slope: Returns the slope of the straight line through ``a`` (any finite number where
            ``kink_distance`` is zero).
        kink_distance: Returns how far from ``a`` that line reaches on both sides, the ends excluded.
        monotone: Whether ``f`` never decreases; its largest change within a radius is then at the ends.
        steepest: Largest absolute slope of ``f``; infinite where it jumps.
        move: ``change`` for compiled loops; None to compute it by NumPy.
        taylor: Returns the first ``n`` coefficients after the constant one of the Taylor series at each
            ``a``, shape ``(n, *a.shape)``; None if there is no series, or it is not known.
    """

    name: str
    value: Callable[[Array], Array]
    change: Callable[[Array, Array], Array]
    slope: Callable[[Array], Array] = _curved
    kink_distance: Callable[[Array], Array] = _curved
    monotone: bool = True
    steepest: float = float("inf")
    move: Move | None = None
    taylor: Callable[[Array, int], Array] | None = None

    @property
    def jumps(self) -> bool:
        """Whether ``f`` is flat wherever it is a straight line."""
        return self.piecewise_linear and self.slope is _curved

    @property
    def piecewise_linear(self) -> bool:
        """Whether ``f`` has straight pieces at all."""
        return self.kink_distance is not _curved

    @classmethod
    def from_scalar_function(cls, f: Callable[[float], float], name: str | None = None) -> Activation:
        """Make an activation from a Python function of one number that Numba can compile.

        Args:
            f: Returns a number for every number, and the same one each time.
            name: A name for messages; by default the function's.

        Raises:
            InputError: If Numba cannot compile ``f``.

        >>> signed_square = Activation.from_scalar_function(lambda a: a * abs(a), "signed_square")
        >>> signed_square.value(np.array([-3.0, 2.0]))
        array([-9.,  4.])
        """
        from numba import njit, vectorize
        from numba.core.errors import NumbaError

        compiled = vectorize(nopython=True)(f)
        try:
            compiled(np.zeros(1))
        except (NumbaError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"activation {name or f.__name__!r} is not a function of one number that Numba can compile: "
                f"{str(error).strip().splitlines()[0]}. Activation.from_function takes NumPy functions of arrays."
            ) from None
        activation = cls.from_function(compiled, name or f.__name__)
        return replace(activation, move=Move(njit(nogil=True)(f), own_constants))

    @classmethod
    def from_function(cls, value: Callable[[Array], Array], name: str | None = None) -> Activation:
        """Make an activation from a vectorised NumPy function. It is evaluated for every change, which is slow.

        Args:
            value: An elementwise function of arrays of any shape that keeps their dtype.
            name: A name for messages; by default the function's.

        >>> Activation.from_function(np.sin).value(np.zeros(2))
        array([0., 0.])
        """
        return cls(CUSTOM + (name or value.__name__), value, _difference(value), monotone=False)


def _identity(a: Array) -> Array:
    return a


def _identity_change(a: Array, d: Array) -> Array:
    return np.broadcast_to(d, np.broadcast_shapes(a.shape, d.shape)).copy()


def _infinite(a: Array) -> Array:
    return np.full_like(a, np.inf)


def _relu(a: Array) -> Array:
    return np.maximum(a, 0)


def _relu_change(a: Array, d: Array) -> Array:
    # For a > 0 the change is d, but at least -a; otherwise a + d if that is positive.
    return np.maximum(d + np.minimum(a, 0), -np.maximum(a, 0))


def _is_positive(a: Array) -> Array:
    return (a > 0).astype(a.dtype)


def _leaky_relu(alpha: float) -> Activation:
    if not 0 <= alpha <= 1:
        raise InputError(f"activation is 'leaky_relu:{alpha:g}'; its slope below zero must be between 0 and 1.")

    def value(a: Array) -> Array:
        return np.where(a > 0, a, alpha * a)

    def change(a: Array, d: Array) -> Array:
        # f is a line of slope alpha plus a ReLU times 1 - alpha.
        return alpha * d + (1 - alpha) * _relu_change(a, d)

    def slope(a: Array) -> Array:
        return np.where(a > 0, a.dtype.type(1), a.dtype.type(alpha))

    def constants(a: Array) -> tuple[Array, Array]:
        return a, np.full_like(a, alpha)

    return Activation(f"leaky_relu:{alpha:g}", value, change, slope, np.abs, steepest=1.0, move=Move("relu", constants))


def _quantize(n_levels: float) -> Activation:
    if not 2 <= n_levels <= 65536 or n_levels != int(n_levels):
        raise InputError(f"activation is 'quantize:{n_levels:g}'; its levels must be a whole number from 2 to 65536.")
    top = int(n_levels) - 1

    def level(a: Array) -> Array:
        return np.clip(np.floor(a * top + 0.5), 0, top)

    def value(a: Array) -> Array:
        return level(a) / top

    def change(a: Array, d: Array) -> Array:
        return (level(a + d) - level(a)) / top

    def kink_distance(a: Array) -> Array:
        # The jumps are at (k + 1/2) / top for k = 0, ..., top - 1.
        nearest = np.clip(np.rint(a * top - 0.5), 0, top - 1)
        return np.abs(a - (nearest + 0.5) / top)

    def constants(a: Array) -> tuple[Array, Array]:
        return a, np.full_like(a, top)

    move = Move("quantize", constants)
    return Activation(f"quantize:{int(n_levels)}", value, change, _curved, kink_distance, move=move)


def _smooth(
    name: str,
    value: Callable[[Array], Array],
    small_change: Callable[[Array, Array], Array],
    constants: Callable[[Array], tuple[Array, Array]],
    steepest: float,
    taylor: Callable[[Array, int], Array],
) -> Activation:
    """A smooth activation whose identity is used for shifts up to 1; beyond that, subtracting is exact enough."""

    def change(a: Array, d: Array) -> Array:
        large = np.abs(d) > 1
        if not large.any():
            return small_change(a, d)
        return np.where(large, value(a + d) - value(a), small_change(a, np.where(large, 0, d)))

    move = Move(name, constants, largest=1.0)
    return Activation(name, value, change, steepest=steepest, move=move, taylor=taylor)


PLAIN = {
    activation.name: activation
    for activation in (
        Activation("relu", _relu, _relu_change, _is_positive, np.abs, steepest=1.0, move=Move("relu", own_constants)),
        _smooth("tanh", np.tanh, smooth.tanh_change, smooth.tanh_constants, 1.0, smooth.tanh_taylor),
        _smooth(
            "sigmoid", smooth.sigmoid, smooth.sigmoid_change, smooth.sigmoid_constants, 0.25, smooth.sigmoid_taylor
        ),
        _smooth(
            "softplus", smooth.softplus, smooth.softplus_change, smooth.softplus_constants, 1.0, smooth.softplus_taylor
        ),
        Activation("identity", _identity, _identity_change, np.ones_like, _infinite, steepest=1.0),
        Activation("step", _is_positive, _difference(_is_positive), _curved, np.abs, move=Move("step", own_constants)),
        Activation("sign", np.sign, _difference(np.sign), _curved, np.abs, move=Move("sign", own_constants)),
    )
}
FAMILIES: dict[str, tuple[Callable[[float], Activation], float]] = {
    "leaky_relu": (_leaky_relu, 0.01),
    "quantize": (_quantize, 4),
}

CUSTOM = "custom:"
"""Prefix of the names of activations that are functions of the user."""
ACTIVATIONS = ("relu", "leaky_relu[:SLOPE]", *(name for name in PLAIN if name != "relu"), "quantize[:LEVELS]")
"""All names, as users write them."""


def get_activation(name: str | Activation) -> Activation:
    """The activation of a name, such as ``relu``, ``leaky_relu:0.2`` or ``quantize:8``.

    Raises:
        InputError: If no activation has that name, or its number is out of range.
    """
    if isinstance(name, Activation):
        return name
    if isinstance(name, str):
        if name.startswith(CUSTOM):
            raise InputError(
                f"activation is {name!r}, a function of the user's; only Python can pass it: distnum.train("
                "activation=..., out=..., resume=True) continues a run, distnum.load(DIR, activation=...) reads it."
            )
        plain, _, number = name.partition(":")
        if name in PLAIN:
            return PLAIN[name]
        if plain in FAMILIES and (number or name == plain):
            make, default = FAMILIES[plain]
            try:
                parameter = float(number) if number else default
            except ValueError:
                raise InputError(f"activation is {name!r}; a number must follow the colon.") from None
            return make(parameter)
    if callable(name):
        raise InputError(
            f"activation is a function, {name!r:.60}; make it one with Activation.from_scalar_function, if Numba can "
            "compile it, or Activation.from_function."
        )
    raise InputError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}.")
