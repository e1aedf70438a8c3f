"""Noise of a function from its values along a line."""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = ["noise_level"]


def noise_level(values: NDArray[np.inexact]) -> tuple[NDArray[np.float64], float]:
    """Standard deviation of the noise of equally spaced values (ECnoise).

    Differences of order ``k`` of a smooth function vanish for small spacings; those of noise with the standard
    deviation ``s`` have the mean square ``s**2 * (2 k)! / (k!)**2``. The level is that of the first order from which
    on three orders agree within a factor of four, with differences of both signs.

    Source: J. Moré and S. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011), 1292-1314.

    Args:
        values: Values of ``m`` outputs at ``p`` points, shape ``(p, m)``, ``p`` at least 7.

    Returns:
        The levels, shape ``(m,)``, NaN where none was found; and the factor of the spacing to try next: 1 if all were
        found, 100 if many values are equal, 0.01 if they vary too much.
    """
    real = np.abs(values) if np.iscomplexobj(values) else values.astype(np.float64)
    p, m = real.shape
    level = np.full(m, np.nan)
    finite = np.isfinite(real).all(axis=0)
    differences = real
    estimates, mixed = [], []
    equal = np.zeros(m, bool)
    for k in range(1, p):
        with np.errstate(invalid="ignore", over="ignore"):
            differences = np.diff(differences, axis=0)
        if k == 1:
            equal = (differences == 0).sum(axis=0) >= (p - 1) / 2
        gamma = factorial(k) ** 2 / factorial(2 * k)
        with np.errstate(over="ignore", invalid="ignore"):
            estimates.append(np.sqrt(gamma * (differences**2).mean(axis=0)))
        mixed.append((differences.min(axis=0) < 0) & (differences.max(axis=0) > 0))
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(real).max(axis=0), np.finfo(np.float64).tiny)
        varies = (real.max(axis=0) - real.min(axis=0)) / size > 0.1
    usable = finite & ~equal & ~varies
    for k in range(p - 3):
        three = np.array(estimates[k : k + 3])
        with np.errstate(invalid="ignore"):
            agrees = (three.max(axis=0) <= 4 * three.min(axis=0)) & mixed[k] & usable & np.isnan(level)
        level[agrees] = estimates[k][agrees]
    factor = 1.0 if np.isfinite(level).all() else 100.0 if equal.any() else 0.01
    return level, factor
