"""The step of a finite difference: its default size, and the step really taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.differentiation.schemes import Scheme

__all__ = ["default_h", "representable_h"]


def default_h(scheme: Scheme, dtype: DTypeLike) -> float:
    """The step that balances truncation and rounding where values are subtracted.

    Truncation costs about ``h ** order`` and rounding about ``eps / h``; their sum is
    least near ``eps ** (1 / (order + 1))`` for a function and a parameter of size one
    (Press et al., "Numerical Recipes", 3rd edition, section 5.7).

    >>> from distnum.differentiation.schemes import get_scheme
    >>> f"{default_h(get_scheme('central'), np.float64):.2e}"
    '6.06e-06'
    """
    return float(np.finfo(dtype).eps) ** (1 / (scheme.order + 1))


def representable_h(x: NDArray[np.floating], h: float) -> NDArray[np.floating]:
    """The step really taken when ``h`` is wished for.

    In floating point ``x + h`` is rounded, so what is added to ``x`` is not ``h`` but
    ``(x + h) - x``. That difference is taken on the side away from zero, where the numbers
    lie less densely: both ``x + step`` and ``x - step`` are then exact, and dividing by
    ``step`` makes no error. (Twice the step may still be rounded by half a unit in the last
    place of ``x``, and where ``|x| < h`` the sums are, by one of ``h``.)

    Args:
        x: parameters, any shape, float32 or float64.
        h: the step wished for, positive.

    Returns:
        shape and dtype of ``x``; zero where ``h`` vanishes beside ``x``.

    >>> x = np.array([0.1, -7.3])
    >>> step = representable_h(x, 1e-4)
    >>> bool(np.all((x + step) - x == x - (x - step)))
    True
    """
    away = x + np.copysign(x.dtype.type(h), x)
    return np.abs(away - x)
