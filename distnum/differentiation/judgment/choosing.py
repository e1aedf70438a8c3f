"""Chooses among the levels of a search: which are good, which is the best, and where the next one should be.

A level is *noisy* if the error by noise is a large part of its derivative, and *bent* if the slopes on its two sides
differ too much: then the step is too large, or there is a kink. The next level is

- farther out if no level is bent, and where a truncation error is seen, ``c h**2``, at the best step for it,
  ``h = (eps_f / (2 c))**(1/3)``. This is where the ratio of H. Shi, Y. Xie, M. Xuan and J. Nocedal, "Adaptive
  finite-difference interval estimation for noisy derivative-free optimization", SIAM J. Sci. Comput. 44 (2022),
  ``|f(3 h) - 3 f(h) + 3 f(-h) - f(-3 h)| / (8 eps_f)``, is 3. They approach it by bisection; few rounds are left for
  that here;
- nearer if all are bent: at first a little, as there may be a minimum, where the bend falls with ``h``; then by many
  powers of ten, halfway to where noise begins;
- between a noisy level and a bent one, at their geometric mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Mask
from distnum.differentiation.judgment.judging import SHIFT, Verdict, tolerance
from distnum.differentiation.judgment.levels import Levels
from distnum.differentiation.judgment.status import Status

__all__ = ["Assessment", "assess", "best_of", "next_distance"]

# Factor of the first step inward, in which a minimum is told from a kink.
_INWARD = 1 / 8
# There the bend of a parabola is 1 / 8, and the noise 8 times as large; the bend must be 8 times the noise, or more.
_SEEN_INWARD = 1000.0
# Largest factors outward: where nothing changes at all, and otherwise.
_OUTWARD_UNCHANGED, _OUTWARD = 1000.0, 300.0
# An error of this fraction of the derivative is aimed at; noise begins where its error is ten times as large.
_AIM = 1e-3 / 3
# At the end, errors up to this fraction of the derivative count as settled: the error says how large they are.
_USABLE = 0.1
# A kink or jump that is the same at this many bent levels is one.
_SCALES = 3


@dataclass(frozen=True)
class Assessment:
    """What is thought of the levels of a search.

    Attributes:
        levels: The levels, with the noise that they show.
        error: Errors by noise and truncation, infinite where a level is not there, shape ``(L, c, m)``.
        noisy, bent: As above, shape ``(L, c, m)``.
        good: Whether a level needs no better one, shape ``(L, c, m)``.
        usable: Whether it can be taken if there is no better one, shape ``(L, c, m)``.
        kinked, jumps: Whether there seems to be a kink or a jump at ``x``, shape ``(c, m)``.
        unchanged: Whether no value differs from that at ``x``, shape ``(c, m)``.
    """

    levels: Levels
    error: NDArray[np.float64]
    noisy: Mask
    bent: Mask
    good: Mask
    usable: Mask
    kinked: Mask
    jumps: Mask
    unchanged: Mask


def assess(levels: Levels, size: NDArray[np.float64], scale: NDArray[np.float64]) -> Assessment:
    """Assess all levels; noise that only they show counts.

    A truncation error of at least ``D (h / scale)**2 / 6`` is assumed, as of a function that varies over the size of
    its argument: behind noise, larger ones would not be seen.

    Args:
        levels: The levels.
        size: Size of the function, shape ``(c, m)``.
        scale: Size of its argument, shape ``(c,)``.
    """
    kinked, jumps = levels.kinked(), levels.jumps()
    levels = levels.with_noise(levels.hidden_noise())
    accepted, bend = tolerance(2, levels.noise_f, size)
    derivative, seen, parabolic = np.abs(levels.derivative), levels.seen_bend(), levels.parabolic()
    truncation = levels.truncation()
    natural = derivative * (levels.h / scale[:, None]) ** 2 / 6
    error = np.where(levels.there, levels.noise + np.maximum(truncation, natural), np.inf)
    # Errors that do not matter although the derivative may be zero.
    nearby = np.maximum(np.where(parabolic, SHIFT * seen, 0.0), accepted * levels.farther())
    limit = np.maximum(np.maximum(bend * derivative, nearby), levels.noise)
    smooth = levels.there & (parabolic | ((seen <= bend * derivative) & (truncation <= limit)))
    shrinks = smooth & levels.shrinks()
    return Assessment(
        levels=levels,
        error=error,
        noisy=smooth & (levels.noise > np.maximum(accepted * derivative, nearby)),
        bent=levels.there & ~smooth,
        good=shrinks & (error <= np.maximum(accepted * derivative, nearby)),
        usable=shrinks & (error <= np.maximum(_USABLE * derivative, nearby)),
        kinked=kinked,
        jumps=jumps,
        unchanged=levels.there.any(axis=0) & ((levels.changes == 0) | ~levels.there[None]).all(axis=(0, 1)),
    )


def best_of(assessment: Assessment, scheme_side: int) -> Verdict:
    """The best level of each entry, and its status.

    Args:
        assessment: What is thought of the levels.
        scheme_side: 1 or -1 if values on one side only were asked for, else 0.
    """
    levels = assessment.levels
    there = levels.there.any(axis=0)
    usable = assessment.usable.any(axis=0)
    best = np.where(assessment.usable | ~usable, assessment.error, np.inf).argmin(axis=0)
    moved = (there & ~assessment.unchanged).any(axis=1, keepdims=True)
    side = _at(np.broadcast_to(levels.side, levels.there.shape), best)
    status = np.full(there.shape, Status.NOISE, np.uint8)
    status[assessment.kinked] = Status.KINK
    status[assessment.jumps] = Status.JUMP
    status[usable] = Status.OK
    status[usable & (side != 0) & (side != scheme_side)] = Status.ONE_SIDED
    status[assessment.unchanged & ~moved] = Status.UNCHANGED
    # An output that stays as it is at all distances, while others change, does not depend on the coordinate.
    status[assessment.unchanged & moved & (levels.there.sum(axis=0) >= _SCALES)] = Status.OK
    status[~there] = Status.FAILED
    known = ~np.isin(status, (Status.KINK, Status.JUMP, Status.FAILED))
    return Verdict(
        np.where(there, _at(levels.derivative, best), np.nan),
        np.where(known, _at(assessment.error, best), np.nan),
        status,
        _at(levels.h, best),
        np.asarray(assessment.good.any(axis=0)),
    )


def next_distance(
    assessment: Assessment, settled: Mask, smallest_h: NDArray[np.float64], every: bool
) -> NDArray[np.float64]:
    """The distance at which each entry wants its next level, shape ``(c, m)``; NaN for those that want none.

    Args:
        assessment: What is thought of the levels.
        settled: Entries that need no further level, shape ``(c, m)``.
        smallest_h: Smallest distance of each coordinate, shape ``(c,)``.
        every: Whether settled entries, too, seek their best step.
    """
    levels = assessment.levels
    best = levels.best_h()
    bent_from = np.where(assessment.bent, levels.h, np.inf).min(axis=0)
    noisy_to = np.where(assessment.noisy & (levels.h < bent_from), levels.h, -np.inf).max(axis=0)
    inward = np.where(np.isfinite(noisy_to), np.sqrt(noisy_to * bent_from), _inward(assessment, smallest_h))
    out = np.isinf(bent_from) | (assessment.noisy.any(axis=0) & ~np.isfinite(noisy_to))
    wanted = np.where(out, _outward(assessment, best), inward)
    finished = (assessment.kinked | assessment.jumps) & (assessment.bent.sum(axis=0) >= _SCALES)
    if every:
        farther = 3 * np.where(levels.there, levels.h, -np.inf).max(axis=0)
        wanted = np.where(settled, np.where(np.isfinite(best), best, farther), wanted)
    else:
        finished = finished | settled
    return np.where(finished | ~levels.there.any(axis=0) | ~(wanted > 0), np.nan, wanted)


def _outward(assessment: Assessment, best: NDArray[np.float64]) -> NDArray[np.float64]:
    """To where the noise is as small as is aimed at, or to the best step if a truncation error is seen."""
    levels = assessment.levels
    outermost = np.where(levels.there, levels.h, -np.inf).argmax(axis=0)
    h, noise, derivative = (
        _at(levels.h, outermost),
        _at(levels.noise, outermost),
        np.abs(_at(levels.derivative, outermost)),
    )
    factor = np.where(derivative > 2 * noise, noise / (_AIM * derivative), _OUTWARD)
    outward = h * np.clip(factor, 10, _OUTWARD)
    unchanged = assessment.unchanged
    outward = np.where(unchanged, h * _OUTWARD_UNCHANGED, outward)
    # As far as possible where no output changes: one level tells that the function does not use the coordinate.
    outward = np.where(unchanged.all(axis=1, keepdims=True), np.finfo(np.float64).max, outward)
    outward = np.where(np.isfinite(best), np.minimum(best, outward), outward)
    # Halfway to where a value is missing.
    missing = np.where(levels.evaluated[:, :, None] & ~levels.there, levels.distance[:, :, None], np.inf).min(axis=0)
    return np.where(missing > h, np.minimum(outward, np.sqrt(h) * np.sqrt(missing)), outward)


def _inward(assessment: Assessment, smallest_h: NDArray[np.float64]) -> NDArray[np.float64]:
    """A little at first, then halfway to where noise begins for the slopes of the innermost level.

    If the bend of a parabola would not be seen a little inward, a level a little outward is compared.
    """
    levels = assessment.levels
    innermost = np.where(levels.there, levels.h, np.inf).argmin(axis=0)
    h = _at(levels.h, innermost)
    slope = np.maximum(np.abs(_at(levels.left, innermost)), np.abs(_at(levels.right, innermost)))
    begins = np.maximum(h * _at(levels.noise, innermost) / (10 * _AIM * slope), smallest_h[:, None])
    far = np.minimum(np.sqrt(begins) * np.sqrt(h), h * _INWARD)
    seen = _at(levels.bend, innermost) > _SEEN_INWARD * _at(levels.noise, innermost)
    return np.where(assessment.bent.sum(axis=0) < 2, np.where(seen, h * _INWARD, h / _INWARD), far)


def _at(array: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """The values of the levels with these numbers, ``(L, c, m)`` at ``(c, m)``."""
    return np.asarray(np.take_along_axis(array, index[None], axis=0)[0])
