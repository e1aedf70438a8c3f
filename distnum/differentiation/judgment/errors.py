"""Estimates of the error of a derivative from the values that its stencil needs anyway.

The polynomial through the base point and the ``k`` points of a stencil, in units of the step ``h``, has the terms

    A_j = h**(j - 1) f^(j) / j!,    j = 1, ..., k,

as slopes: ``A_1`` is the derivative, ``A_2`` half the difference of the slopes on the two sides, and so on. Where the
    step
suits the function they fall quickly with ``j``. The first term that the polynomial lacks makes the truncation error,
``|A_(k+1)|`` times the product of the distances of the points in units of ``h``: 1 for central differences of order 2,
``h**2 f''' / 6``, and 4 for order 4, ``h**4 f^(5) / 30`` (B. Fornberg, Mathematics of Computation 51 (1988)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDING", "SAFETY", "noise_norm", "taylor_terms", "truncation_error"]

ROUNDING = 2.5
"""Errors of the values add up to at most this many times the norm of the weights times their size, in 95 % of cases."""


SAFETY = 4.0
"""Factor of extrapolated truncation errors."""


def noise_norm(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of ``sum_k w_k (f_k - f_0)`` for errors of size 1 in all values, shape ``(c,)``."""
    largest = np.abs(weights).max(axis=0)  # squares of weights overflow for the smallest steps
    units = weights / largest
    return np.asarray(np.sqrt((units**2).sum(axis=0) + units.sum(axis=0) ** 2) * largest)


def taylor_terms(
    offsets: NDArray[np.float64], changes: NDArray[Any], h: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The terms ``A_j``, and how they magnify noise.

    Args:
        offsets: Offsets of the points, shape ``(k, c)``.
        changes: ``f_k - f_0``, shape ``(k, c, m)``.
        h: Unit of length, shape ``(c,)``.

    Returns:
        ``A_j``, shape ``(k, c, m)``, and for each the norm of its weights, shape ``(k, c)``.
    """
    k, c = offsets.shape
    units = offsets / h
    nominal = np.round(units[:, :1])
    slopes = changes / h[:, None]
    if k and c and np.abs(units - nominal).max() < 1e-6:
        inverse = np.linalg.inv(nominal ** np.arange(1, k + 1))
        terms = np.einsum("jk,kcm->jcm", inverse, slopes)  # not by BLAS, whose bits depend on the shape
        norms = np.sqrt((inverse**2).sum(axis=1) + inverse.sum(axis=1) ** 2)
        return terms, norms[:, None] / h
    inverses = np.linalg.inv(units.T[:, :, None] ** np.arange(1, k + 1))
    terms = np.einsum("cjk,kcm->jcm", inverses, slopes)
    norms = np.sqrt((inverses**2).sum(axis=2) + inverses.sum(axis=2) ** 2)
    return terms, norms.T / h


def truncation_error(
    terms: NDArray[Any], offsets: NDArray[np.float64], h: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Truncation error of the derivative, extrapolated from the terms that are there, shape ``(c, m)``.

    ``A_(k+1)`` is not known. As terms of odd and even order may vanish on their own, the larger of the last two is
    compared with the larger of the two before, and ``A_(k+1)`` is taken to be as much smaller once more; that times
    ``SAFETY`` is enough for functions with singularities, such as ``log``. With two points, ``A_3`` is the larger of
    ``A_2**2 / A_1``, but at most ``A_2``, and ``A_1 (h / scale)**2``, as for a function that varies over the ``scale``,
    shape ``(c,)``, of ``x``. With one, ``A_2`` is ``A_1 h / scale``.
    """
    k = len(terms)
    sizes = np.abs(terms)
    natural = (h / scale)[:, None]
    if k == 1:
        return np.asarray(sizes[0] * natural)
    product = np.abs(offsets / h).prod(axis=0)[:, None]
    last, before = sizes[1], sizes[0]
    if k > 2:
        last, before = np.maximum(sizes[-1], sizes[-2]), np.maximum(sizes[-3], sizes[-4])
    with np.errstate(all="ignore"):
        ratio = np.where(last > 0, last / before, 0.0)
    extrapolated = last * np.minimum(ratio, 1.0)
    if k == 2:
        return np.asarray(product * np.maximum(extrapolated, sizes[0] * natural**2))
    return np.asarray(SAFETY * product * extrapolated)
