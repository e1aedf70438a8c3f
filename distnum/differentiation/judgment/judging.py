"""Judges the entries of a derivative by the values that its stencil needs anyway.

What can be seen depends on the number of points. From two points on, the terms ``A_j`` of the polynomial through them
(see ``errors``) show a step that is too large, a kink or a jump, and noise that is larger than rounding: they do not
fall. Noise in which the change is lost shows in every stencil.

What the points of one coordinate cannot show: with one point (forward and backward differences of order 1), how much
the function bends; there too large a step shows only where the value changes by some thousandths of itself. With two
points, anything that is odd around ``x``, such as ``sin(1e6 * x)`` at ``x = 0``: the slopes on the two sides agree.
Order 4 shows that, unless the points of all orders agree by chance, as those of an oscillation with a period that fits
into the step. Noise, or rounding to a grid that is neither binary nor decimal, shows only above some thousandths of the
change (with one point, above all of it): state it as ``noise``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.differentiation.judgment.errors import ROUNDING, noise_norm, taylor_terms, truncation_error
from distnum.differentiation.judgment.precision import value_size
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.stencils.stencil import Stencil

__all__ = ["NEARER", "SHIFT", "Verdict", "compared", "judge", "negligible", "tolerance", "within_step"]

NEARER = 0.1
"""A step relative to a parameter that is smaller than its default step."""
# The noise of a value must be smaller than this fraction of its change over such a step.
_VISIBLE = 0.01
# A difference counts as seen above this multiple of its noise.
_SEEN = 4.0
SHIFT = 0.1
"""A derivative is known well enough if its error is that of moving ``x`` by this fraction of the step."""
# Entries that are, with their errors, smaller than this fraction of the largest of their coordinate do not matter: many
# entries of Jacobians are zero but for rounding.
_NEGLIGIBLE = 1e-6
# Terms of even and odd order, in units of the values, are noise if they differ by less than this factor.
_ALIKE = 0.1
# Noise is that by which two terms show it, times this: it may be larger by chance than they are.
_SHOWN = 3 * ROUNDING
# With two points, a second difference may be noise if the function would bend by this much within its scale.
_UNUSUAL = 3.0
# A derivative of zero may be hidden by noise if its error exceeds this fraction of the largest of its coordinate.
_HIDDEN = 0.1
# Noise of the values above this multiple of rounding in double precision shows that they are rounded.
_COARSE = 8.0
# Numbers with at most this many binary digits may be whole numbers or simple fractions.
_FEW_BITS = 12
# Numbers with at most this many decimal digits look rounded.
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Verdict:
    """What values say about some coordinates and all outputs.

    Attributes:
        derivative, error: Derivatives and estimates of their errors, shape ``(c, m)``.
        status: Numbers of ``Status``, shape ``(c, m)``.
        h: Steps, shape ``(c, m)``.
        settled: Whether the entries need no further points, shape ``(c, m)``.
    """

    derivative: NDArray[np.inexact]
    error: NDArray[np.float64]
    status: NDArray[np.uint8]
    h: NDArray[np.float64]
    settled: NDArray[np.bool_]

    def where_unchanged(self, status: Status) -> Verdict:
        """The same with another status of the entries that are ``UNCHANGED``."""
        statuses = np.where(self.status == Status.UNCHANGED, status, self.status).astype(np.uint8)
        return replace(self, status=statuses)


def tolerance(
    order: int, eps_f: NDArray[np.float64], size: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative errors by noise, and relative bends, that are accepted without a search, shape ``(c, m)``.

    At its best step ``h = e**(1 / (p + 1))``, for values of relative noise ``e`` and a function of size 1, a scheme of
    order ``p`` has the noise ``e / h``, and its last two terms are ``h**(p - 2)`` times the first ones (``h`` for ``p``
    up to 2). Accepted are 100 times as much noise and 10 times as much bend, but at least 1e-3 and, for order 2, 3e-3,
    which count for functions that are exact up to rounding in double precision.

    For order 2 the bend is that large within some 200 steps of a minimum, too: there further evaluations make sure that
    the bend is no kink (``together.py``, or a search).
    """
    with np.errstate(all="ignore"):
        relative = np.where(size > 0, eps_f / size, eps_f > 0)
    noise = np.clip(100 * relative ** (order / (order + 1)), 1e-3, 0.1)
    fall = max(order - 2, 1)
    bend = np.clip(10 * relative ** (fall / (order + 1)), 3e-3 if order <= 2 else 1e-3, 0.3)
    return noise, bend


def judge(
    stencil: Stencil, base: NDArray[np.inexact], values: NDArray[np.inexact], eps_f: NDArray[np.float64]
) -> Verdict:
    """Judge the entries of the coordinates of a stencil.

    An entry is settled if

    - all its points are finite;
    - the error by noise is a small part of the derivative; or of ``A_2``: then the derivative is that at ``x`` plus a
      tenth of the step, at most, so that a derivative of zero at a minimum is settled; or it is very small compared
      with the derivatives of other outputs;
    - the terms ``A_j`` fall, and the truncation error that follows from them is a small part of the derivative.

    A value that does not change at all is settled only if other outputs show that the coordinate is moved, and
    the value shows no coarse rounding: Jacobians have many zeros. Entries of outputs that are not finite at the base
    point have failed, and count as settled.

    Args:
        stencil: The stencil of the ``c`` coordinates.
        base: Value at the base point, shape ``(m,)``; or ``(c, m)`` if each coordinate has outputs of its own.
        values: Values at the points, shape ``(k, c, m)``, NaN where there is none.
        eps_f: Absolute noise, shape ``(c, m)`` or ``(m,)``.
    """
    derivative = stencil.derivative(base, values)
    c, m = derivative.shape
    with np.errstate(all="ignore"):
        finite = np.isfinite(values).all(axis=0) & np.isfinite(base)
        changes = values - base
        size = value_size(base, values, stencil.offsets, stencil.x)
        if stencil.scheme.imaginary:
            error, settled = _judge_imaginary(stencil, derivative, changes, base)
            zero = derivative == 0
        else:
            error, settled = _judge_real(stencil, derivative, changes, np.broadcast_to(eps_f, (c, m)), base, size)
            zero = (changes == 0).all(axis=0)
        moved = (finite & ~zero).any(axis=1, keepdims=True)
        coarse = finite & ~zero & (eps_f > _COARSE * np.finfo(np.float64).eps * size)
        # Where others are so coarse that they are searched, the zeros of the coordinate are searched with them.
        hidden = rounded(base, coarse) | (coarse & ~settled).any(axis=1, keepdims=True)
        if np.finfo(base.real.dtype).eps > np.finfo(stencil.x.dtype).eps:  # the step suits x, but not such values
            hidden |= error > _HIDDEN * np.abs(derivative).max(axis=1, keepdims=True, initial=0, where=finite)
        settled = finite & np.where(zero, moved & ~hidden, settled)
        settled |= ~np.isfinite(base)  # no other points help
    status = np.full((c, m), Status.OK, np.uint8)
    status[stencil.sides != 0] = Status.ONE_SIDED
    status[~settled] = Status.NOISE
    status[finite & zero & ~moved] = Status.UNCHANGED
    status[~finite] = Status.FAILED
    h = np.broadcast_to(stencil.h[:, None], (c, m))
    return Verdict(np.where(finite, derivative, np.nan), np.where(finite, error, np.nan), status, h, settled)


def compared(given: Verdict, found: Verdict) -> Verdict:
    """The verdict on steps that the user gives, by comparison with better ones; shape ``(c, m)``.

    Args:
        given: By the steps that were given, whose derivatives are kept.
        found: By steps that were searched.
    """
    with np.errstate(invalid="ignore"):
        difference = np.abs(given.derivative - found.derivative)
        error = np.fmax(given.error, difference + np.nan_to_num(found.error))
        right = difference <= np.maximum(0.01 * np.abs(found.derivative), 2 * np.nan_to_num(found.error))
    fits = np.isin(found.status, (Status.OK, Status.ONE_SIDED))
    status = np.where(fits & right, Status.OK, np.where(fits, Status.STEP, found.status)).astype(np.uint8)
    status[given.status == Status.FAILED] = Status.FAILED
    return Verdict(given.derivative, error, status, given.h, given.settled)


def _judge_real(
    stencil: Stencil,
    derivative: NDArray[np.inexact],
    changes: NDArray[np.inexact],
    eps_f: NDArray[np.float64],
    base: NDArray[np.inexact],
    size: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Error of each entry, and whether it is small, shapes ``(c, m)``."""
    k = len(changes)
    terms, norms = taylor_terms(stencil.offsets, changes, stencil.h)
    noise = ROUNDING * noise_norm(stencil.weights)[:, None] * eps_f
    accepted, bend = tolerance(k, eps_f, size)
    absolute = np.abs(derivative)
    scale = np.maximum(np.abs(stencil.x.astype(np.float64)), 1.0)
    truncation = truncation_error(terms, stencil.offsets, stencil.h, scale)
    if k == 1:
        change = np.abs(changes[0])
        largest = np.maximum(np.abs(base), np.abs(changes[0] + base))
        part = np.where(largest > 0, change / largest, 0.0)
        truncation = np.maximum(truncation, absolute * part)  # as if f'' were f'**2 / f
        return noise + truncation, (noise <= accepted * absolute) & ((change <= bend * np.abs(base)) | (base == 0))
    # In units of the values: noise, or values that have nothing to do with each other, make all of them alike.
    sizes = np.abs(terms) / norms[:, :, None]
    seen = np.where(sizes > _SEEN * ROUNDING * eps_f, sizes, 0.0)
    last = seen[-1] if k == 2 else np.maximum(seen[-1], seen[-2])
    before = sizes[:1].max(axis=0) if k == 2 else sizes[:-2].max(axis=0)
    second = np.where(seen[1] > 0, np.abs(terms[1]), 0.0)
    shown = _SHOWN * noise_norm(stencil.weights)[:, None]
    natural = (stencil.h / scale)[:, None]
    if k > 2:
        # The last term of a smooth function is smaller than the last but one.
        alike = seen[-1] > _ALIKE * sizes[-2]
        noise = np.where(alike, np.maximum(noise, shown * last), noise)
        odd = np.abs(terms[-1]) > _UNUSUAL * _expected_last(np.abs(terms), natural)
        error = np.where(odd, np.maximum(noise, shown * seen[-1]), noise) + truncation
    else:
        # It may bend as much, or be as noisy.
        bends = np.abs(terms[1]) > _UNUSUAL * natural * np.maximum(absolute, size / scale[:, None])
        error = np.where(bends, np.maximum(noise, shown * last), noise) + truncation
    fits = (last <= bend * before) & (truncation <= np.maximum(bend * absolute, SHIFT * second))
    lost = noise > np.maximum(accepted * absolute, SHIFT * second)
    if k == 2:
        fits &= ~within_step(stencil.x, stencil.h, absolute, eps_f)
    return error, (fits & ~lost) | negligible(derivative, error)


def _expected_last(sizes: NDArray[np.float64], natural: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of the last term of a smooth function as its other terms tell it, if they fall at the same rate.

    Args:
        sizes: Absolute terms, shape ``(k, c, m)``, ``k`` at least 4.
        natural: The rate of a function that varies over the size of its argument, shape ``(c, 1)``.
    """
    rate = np.maximum(np.sqrt(np.where(sizes[-4] > 0, sizes[-2] / sizes[-4], 0.0)), natural)
    return np.maximum(sizes[-2] * rate, sizes[-3] * rate**2)


def negligible(derivative: NDArray[np.inexact], error: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Entries that are, with their errors, very small relative to the largest of their coordinate, shape ``(c, m)``.

    Most entries of most Jacobians are of this kind. A search for one of them would cost its whole column.
    """
    absolute = np.abs(derivative)
    largest = absolute.max(axis=1, keepdims=True, initial=0, where=np.isfinite(absolute))
    return np.asarray(absolute + error <= _NEGLIGIBLE * largest) & (largest > 0)


def within_step(
    x: Array, h: NDArray[np.float64], derivative: NDArray[np.float64], eps_f: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a parameter is smaller than its step, although not 0, and a smaller step would do, shape ``(c, m)``.

    The function may vary over the size of the parameter; that does not show if it is odd, such as ``atan(1e6 * x)``.

    Args:
        x, h: Parameters and steps, shape ``(c,)``.
        derivative: Absolute derivatives, shape ``(c, m)``.
        eps_f: Absolute noise of the values, shape ``(c, m)``.
    """
    size = np.abs(x.astype(np.float64))
    inside = (size > 0) & (size < h)
    return np.asarray(inside[:, None] & (eps_f < _VISIBLE * NEARER * size[:, None] * derivative))


def _judge_imaginary(
    stencil: Stencil, derivative: NDArray[np.inexact], changes: NDArray[np.inexact], base: NDArray[np.inexact]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The same for the complex step: ``Re f(x + ih) - f(x)`` is ``-h**2 f'' / 2``, ``h f''' / 6`` is not known."""
    h = stencil.h[:, None]
    bend = np.abs(changes[0].real) / h
    absolute = np.abs(derivative)
    eps = float(np.finfo(changes.real.dtype).eps)
    floor = _SEEN * eps * np.abs(base) / h
    bend = np.where(bend > floor, bend, 0.0)
    error = 4 * eps * absolute + np.minimum(bend, bend**2 / np.maximum(absolute, np.finfo(np.float64).tiny))
    return error, np.asarray((bend <= 1e-2 * absolute) & np.isfinite(derivative))


def rounded(base: NDArray[np.inexact], coarse: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether values that do not change may be rounded, so that a change does not show, shape ``(c, m)``.

    They are if they have only the digits of single precision, or few decimals where other outputs are rounded, too. Few
    decimals alone, or few binary digits, are no evidence: data have them.

    Args:
        base: The values, shape ``(m,)`` or ``(c, m)``.
        coarse: Outputs that change in coarse steps, shape ``(c, m)``.
    """
    real = np.real(base).astype(np.float64)
    mantissas, _ = np.frexp(real)
    many_bits = np.ldexp(mantissas, _FEW_BITS) != np.round(np.ldexp(mantissas, _FEW_BITS))
    single = (real == real.astype(np.float32)) & (base.real.dtype == np.float64)
    unit = 10.0 ** (np.ceil(np.log10(np.maximum(np.abs(real), np.finfo(np.float64).tiny))) - _MOST_DIGITS)
    decimal = np.abs(real / unit - np.round(real / unit)) <= 2.0**-50 * np.abs(real / unit)
    return np.asarray(many_bits & (single | (decimal & coarse.any(axis=1, keepdims=True))))
