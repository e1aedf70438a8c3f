"""Tells minima from kinks, for all coordinates at once.

Near a minimum, the three values of a central difference look as at a kink: the slopes on the two sides differ by much
of the derivative. One coordinate by itself needs two more points to tell. Here all such coordinates are moved
together, along a direction ``d`` that has a part of each one's step with a random sign, to ``x + t d`` and ``x - t
d`` for ``t = 1`` and ``t = 1/8``. The second differences ``F(t)`` are ``t**2 Q`` for a smooth function and ``t K``
for kinks at ``x``. So

    K = (64 F(1/8) - F(1)) / 7

is the sum of all kinks, and terms of fourth order. A coordinate whose own second difference is far larger than ``K``,
and than the noise of ``K``, has no kink. The differences between both sides are ``t G + t**3 T``, which bounds the
truncation error of each coordinate. Four evaluations tell, however many coordinates
there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.differentiation.judgment.judging import Verdict, judge, within_step
from distnum.differentiation.judgment.precision import round_off
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.stencils.stencil import Stencil
from distnum.evaluation.points import Points

__all__ = ["settled_together"]

# With fewer coordinates, a search of each one costs no more.
_FEWEST = 3
# A coordinate is smooth if its second difference is this many times larger than that of all kinks.
_LARGER = 80.0
# The error by truncation must be smaller than this fraction of the derivative, or of the change of slopes.
_ACCEPTED, _SHIFT = 1e-3, 0.05
# The same of a step that is given: if its error is larger, a search compares it with better ones.
_SHIFT_GIVEN = 1e-3
# The parts of several coordinates in the third difference may cancel in part.
_SAFETY = 2.0
# Noise of K, in units of the noise of a value: 64 times four values, divided by 7.
_NOISE = 40.0
# The same of the third difference: 9 times two values, divided by 2.
_NOISE_OF_THIRD = 9.0


def settled_together(
    rounds: Rounds, request: Request, positions: NDArray[np.int64], stencil: Stencil, values: NDArray[np.inexact]
) -> Verdict:
    """The verdict on coordinates of which some are bent, after all of them were moved together.

    Args:
        rounds: Evaluates the function.
        request: What is differentiated.
        positions: Positions of the ``c`` coordinates in the request's ``indices``.
        stencil: Their stencil.
        values: Values at its points, shape ``(k, c, m)``.

    Returns:
        The verdict by the stencil, with the entries settled that are only bent, and have no kink.
    """
    base, offsets = rounds.known_base, stencil.offsets
    eps_f = round_off(base, values, offsets, stencil.x)
    judged = judge(stencil, base, values, eps_f)
    if len(offsets) != 2 or stencil.scheme.imaginary or np.iscomplexobj(values):
        return judged
    with np.errstate(all="ignore"):
        second = np.abs(values[0] + values[1] - 2 * base)
        bent = ~judged.settled & (second > _LARGER * _NOISE * eps_f) & np.isfinite(second)
    # The function may vary over the size of the parameter.
    inside = within_step(stencil.x, stencil.h, np.abs(judged.derivative), eps_f).any(axis=1)
    both_sides = offsets[0] == -offsets[1]
    rows = np.flatnonzero((bent | judged.settled).all(axis=1) & bent.any(axis=1) & both_sides & ~inside)
    if len(rows) < _FEWEST:
        return judged
    rng = np.random.default_rng(0)
    parts = rng.uniform(0.5, 1.0, len(rows)) * rng.choice([-1.0, 1.0], len(rows)) * stencil.h[rows]
    x = request.x
    direction = np.zeros(len(x))
    direction[request.indices[positions[rows]]] = parts
    scales = np.array([1.0, -1.0, 0.125, -0.125])
    vectors = (x + np.outer(scales, direction)).astype(x.dtype)
    places = Places(np.full(4, -2), scales, Points.of_vectors(x, vectors))
    f = rounds.evaluate_all(places, raises=False).astype(np.float64)
    shares = (np.abs(parts) / stencil.h[rows])[:, None]
    with np.errstate(all="ignore"):
        kinks = np.abs(64 * (f[2] + f[3] - 2 * base) - (f[0] + f[1] - 2 * base)) / 7
        limit = kinks + _NOISE * eps_f[rows]
        third = np.abs((f[0] - f[1]) - 8 * (f[2] - f[3])) / 2 + _NOISE_OF_THIRD * eps_f[rows]
        truncation = _SAFETY * third / (shares**3 * stencil.h[rows, None])
        bend = second[rows] / stencil.h[rows, None]
        shift = _SHIFT if request.may_search else _SHIFT_GIVEN
        known = truncation <= np.maximum(_ACCEPTED * np.abs(judged.derivative[rows]), shift * bend)
        smooth = bent[rows] & (second[rows] > _LARGER * limit) & known
    settled, error, status = judged.settled.copy(), judged.error.copy(), judged.status.copy()
    noise = stencil.noise_factor[rows, None] * eps_f[rows]
    error[rows] = np.where(smooth, noise + truncation, error[rows])
    status[rows] = np.where(smooth, np.where(stencil.sides[rows, None] != 0, Status.ONE_SIDED, Status.OK), status[rows])
    settled[rows] |= smooth
    return Verdict(judged.derivative, error, status.astype(np.uint8), judged.h, settled)
