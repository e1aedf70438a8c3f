"""The step ``h`` of a finite difference: the default, the step asked for, and the step actually taken.

For networks the configuration has its own default, ``training.config.ARTICLE_H``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.common.errors import InputError
from distnum.differentiation.stencils.schemes import Scheme

__all__ = ["checked_bounds", "default_h", "entry_of_x", "representable_h", "smallest_h", "step_sizes"]


def entry_of_x(index: int) -> str:
    """Name of an entry of ``x`` in messages, such as ``x[3]``."""
    return f"x[{index}]"


def _relative_step(scheme: Scheme, dtype: DTypeLike, noise: Any = 0.0) -> Any:
    """The step for a parameter of size one.

    The truncation error is about ``h ** order`` and the error of subtracted values about ``noise / h``, with at
    least rounding as noise. Their sum is smallest near ``noise ** (1 / (order + 1))`` (Press et al., "Numerical
    Recipes", 3rd edition, section 5.7). The complex step subtracts nothing; its step is the rounding unit.
    """
    eps = float(np.finfo(dtype).eps)
    if scheme.imaginary:
        return eps
    if np.ndim(noise) == 0:
        return min(max(float(noise), eps), 1.0) ** (1 / (scheme.order + 1))
    return np.clip(noise, eps, 1.0) ** (1 / (scheme.order + 1))


def default_h(scheme: Scheme, dtype: DTypeLike, x: float = 1.0) -> float:
    """The step for a parameter ``x`` that balances the truncation error and the rounding error of subtracted values.

    It is ``eps ** (1 / (order + 1)) * max(1, |x|)``: larger parameters get a step in proportion.

    >>> from distnum.differentiation.stencils.schemes import get_scheme
    >>> f"{default_h(get_scheme('central'), np.float64):.2e}"
    '6.06e-06'
    """
    return float(_relative_step(scheme, dtype)) * max(1.0, abs(x))


def smallest_h(dtype: DTypeLike) -> float:
    """The smallest step that is used: its inverse, times the numerators of any scheme, is finite."""
    return 2.0**12 * float(np.finfo(dtype).tiny)


def representable_h(x: NDArray[np.floating], h: float | NDArray[np.floating]) -> NDArray[np.floating]:
    """The step near ``h`` that can be added to ``x`` without rounding.

    In floating point ``x + h`` is rounded, so the step actually taken is ``(x + h) - x``. It is computed
    on the side away from zero, where floating-point numbers are less dense: both ``x + step`` and
    ``x - step`` are then exact, and dividing by ``step`` makes no error. (Exceptions: ``x + 2 * step`` may
    be rounded by half a unit in the last place of ``x``; and if ``|x| < h`` the sums may be rounded by one
    unit in the last place of ``h``.)

    Args:
        x: Parameters, any shape, float32 or float64.
        h: The steps asked for, positive: one for all, or of the shape of ``x``.

    Returns:
        Shape and dtype of ``x``; zero where ``x + h`` rounds to ``x``.

    >>> x = np.array([0.1, -7.3])
    >>> step = representable_h(x, 1e-4)
    >>> bool(np.all((x + step) - x == x - (x - step)))
    True
    """
    away = x + np.copysign(np.asarray(h).astype(x.dtype), x)
    return np.abs(away - x)


def step_sizes(
    scheme: Scheme,
    x: Array,
    *,
    h: Any = None,
    rel_step: Any = None,
    x_scale: Any = None,
    lower: Any = None,
    upper: Any = None,
    noise: Any = None,
    entry_name: Callable[[int], str] = entry_of_x,
) -> NDArray[np.float64]:
    """The steps asked for, before they are fitted to floating-point numbers and bounds.

    With ``h`` the step is ``h``; otherwise it is ``rel_step * max(|x|, x_scale)``. Each option is one number, or an
    array with one for each coordinate.

    Args:
        scheme: The scheme.
        x: The base point, shape ``(n,)``, float32 or float64.
        h: Absolute step.
        rel_step: Relative step; by default ``eps ** (1 / (order + 1))`` with the ``eps`` of the dtype of ``x``, for the
            complex step ``eps``.
        x_scale: Size below which ``x`` counts as small; by default 1, or the distance of two finite bounds if that is
            smaller.
        lower, upper: Bounds of ``x``.
        noise: Relative noise of the function; it takes the place of ``eps`` where it is larger.
        entry_name: Returns the name of an entry of ``x`` in messages.

    Returns:
        Steps, shape ``(n,)``.

    Raises:
        InputError: A number is not positive and finite, an array has another shape, ``h`` and ``rel_step`` are both
            given, or a step vanishes when it is added to ``x``.
    """
    if h is not None and rel_step is not None:
        raise InputError("h and rel_step are both given; give one of them.")
    if h is not None:
        name, steps = "h", np.broadcast_to(_positive("h", h, x, entry_name), x.shape)
    else:
        name = "rel_step"
        if rel_step is not None:
            relative = _positive("rel_step", rel_step, x, entry_name)
        elif noise is not None:
            relative = _relative_step(scheme, x.dtype, _positive("noise", noise, x, entry_name, at_least=0))
        else:
            relative = _relative_step(scheme, x.dtype)
        if x_scale is not None:
            scale = _positive("x_scale", x_scale, x, entry_name)
        else:
            low, high = checked_bounds(x, lower, upper, entry_name)
            with np.errstate(over="ignore"):
                scale = np.minimum(high.astype(np.float64) - low, 1.0)
        steps = relative * np.maximum(np.abs(x.astype(np.float64)), scale)
    if not scheme.imaginary and (h is not None or rel_step is not None):
        with np.errstate(over="ignore"):
            vanishes = (steps < smallest_h(x.dtype)) | (representable_h(x, steps) == 0)
        if vanishes.any():
            index = int(np.flatnonzero(vanishes)[0])
            asked = steps[index] if name == "h" else np.broadcast_to(relative, x.shape)[index]
            raise InputError(
                f"{name} is {asked:g}, which vanishes when added to {entry_name(index)} = {x[index]:g} in {x.dtype}; "
                f"choose a larger {name}, or None."
            )
    return np.maximum(steps, smallest_h(x.dtype))


def _positive(
    name: str, value: Any, x: Array, entry_name: Callable[[int], str], at_least: float | None = None
) -> NDArray[np.float64]:
    """A positive number, shape ``()``, or one for each coordinate, shape ``(n,)``; with ``at_least``, from there on."""
    allowed = "above 0" if at_least is None else f"of at least {at_least:g}"
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} is {value!r:.60}; it must be a finite number {allowed}, or an array of them.")
    if array.shape not in ((), x.shape):
        raise InputError(f"{name} has shape {array.shape}; it must be one number, or have the shape of x, {x.shape}.")
    array = array.astype(np.float64)
    good = np.isfinite(array) & (array > 0 if at_least is None else array >= at_least)
    if not good.all():
        index = int(np.flatnonzero(~good)[0])
        where = f" for {entry_name(index)}" if array.ndim else ""
        raise InputError(f"{name} is {array.flat[index]:g}{where}; it must be a finite number {allowed}.")
    return array


def checked_bounds(
    x: Array, lower: Any, upper: Any, entry_name: Callable[[int], str] = entry_of_x
) -> tuple[Array, Array]:
    """Bounds as numbers of the dtype of ``x``, none of them infinite.

    Bounds between two numbers of that dtype are moved inward, so that they hold as they were given; only an ``x`` that
    is the bound itself, rounded, counts as on the bound.

    Args:
        x: The base point, shape ``(n,)``.
        lower, upper: One bound for all coordinates, or one for each; None or infinite for no bound.
        entry_name: Returns the name of an entry of ``x`` in messages.

    Returns:
        Lower and upper bounds that can be broadcast to ``x``.

    Raises:
        InputError: A bound is not a number, ``x`` is outside, or a lower bound is not below the upper one.
    """
    largest = np.finfo(x.dtype).max
    bounds = []
    for name, value, sign in (("lower", lower, -1), ("upper", upper, 1)):
        if value is None:
            bounds.append(np.asarray(sign * largest))
            continue
        given = np.asarray(value)
        if given.dtype.kind not in "iuf":
            raise InputError(f"the {name} bound is {value!r:.60}; it must be a number, or an array of them.")
        if given.shape not in ((), x.shape):
            raise InputError(
                f"the {name} bounds have shape {given.shape}; they must be one number, or have the shape of x, "
                f"{x.shape}."
            )
        if np.isnan(given).any():
            raise InputError(f"the {name} bounds hold NaN; they must be numbers, or infinite for no bound.")
        with np.errstate(over="ignore"):
            rounded = np.clip(given.astype(x.dtype), -largest, largest)
        beyond = (rounded > given if sign > 0 else rounded < given) & (x != rounded)
        bounds.append(np.where(beyond, np.nextafter(rounded, x.dtype.type(-sign * np.inf)), rounded))
    low, high = bounds
    outside = (x < low) | (x > high)
    fixed = np.broadcast_to(low >= high, x.shape)
    if (outside | fixed).any():
        index = int(np.flatnonzero(outside | fixed)[0])
        interval = f"[{np.broadcast_to(low, x.shape)[index]:g}, {np.broadcast_to(high, x.shape)[index]:g}]"
        if outside[index]:
            raise InputError(f"{entry_name(index)} is {x[index]:g}, outside its bounds {interval}.")
        raise InputError(f"{entry_name(index)} is fixed by its bounds {interval}; leave it out with indices.")
    return low, high
