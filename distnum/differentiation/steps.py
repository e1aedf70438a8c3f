"""The step ``h`` of a finite difference: the default for a parameter, and the step actually taken.

For networks the configuration has its own default, ``training.config.ARTICLE_H``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.differentiation.schemes import Scheme

__all__ = ["default_h", "representable_h"]


def default_h(scheme: Scheme, dtype: DTypeLike, x: float = 1.0) -> float:
    """The step for a parameter ``x`` that balances the truncation error and the rounding error of subtracted values.

    The truncation error is about ``h ** order`` and the rounding error about ``eps / h``. Their sum is
    smallest near ``eps ** (1 / (order + 1))`` for a function and a parameter of size one (Press et al.,
    "Numerical Recipes", 3rd edition, section 5.7). Larger parameters get a step in proportion: the result is
    multiplied by ``max(1, |x|)``.

    >>> from distnum.differentiation.schemes import get_scheme
    >>> f"{default_h(get_scheme('central'), np.float64):.2e}"
    '6.06e-06'
    """
    return float(np.finfo(dtype).eps) ** (1 / (scheme.order + 1)) * max(1.0, abs(x))


def representable_h(x: NDArray[np.floating], h: float) -> NDArray[np.floating]:
    """The step near ``h`` that can be added to ``x`` without rounding.

    In floating point ``x + h`` is rounded, so the step actually taken is ``(x + h) - x``. It is computed
    on the side away from zero, where floating-point numbers are less dense: both ``x + step`` and
    ``x - step`` are then exact, and dividing by ``step`` makes no error. (Exceptions: ``x + 2 * step`` may
    be rounded by half a unit in the last place of ``x``; and if ``|x| < h`` the sums may be rounded by one
    unit in the last place of ``h``.)

    Args:
        x: Parameters, any shape, float32 or float64.
        h: The step asked for, positive.

    Returns:
        Shape and dtype of ``x``; zero where ``x + h`` rounds to ``x``.

    >>> x = np.array([0.1, -7.3])
    >>> step = representable_h(x, 1e-4)
    >>> bool(np.all((x + step) - x == x - (x - step)))
    True
    """
    away = x + np.copysign(x.dtype.type(h), x)
    return np.abs(away - x)
