"""Levels: pairs of points at several distances from ``x``, and what they say together about a derivative.

A level has two points, at offsets ``a`` and ``b``: as a rule ``h`` and ``-h``, or ``h`` and ``2 h`` where the function
has values on one side only. The parabola through them and the base point gives the derivative and the *bend*

    D = (b s_a - a s_b) / (b - a),    B = h |s_a - s_b| / |a - b|,    h = sqrt(|a b|),

with the slopes ``s_a = (f_a - f_0) / a`` and ``s_b``. For ``a = -b`` the bend is half the difference of the slopes on
the two sides. As ``h`` shrinks, the bend falls in proportion for a smooth function, stays at a kink, and grows as ``1 /
h`` at a jump and for noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Mask
from distnum.differentiation.judgment.errors import ROUNDING

__all__ = ["Levels"]

# A difference counts as seen above this multiple of its noise.
_SEEN = 4.0
# Two levels agree on a parabola if they differ from it by less than this fraction.
_AGREE = 0.2
# ... and their derivatives by less than this fraction of the bend.
_STAYS = 0.05
# At a kink slopes, and at a jump changes, are the same at two levels up to this fraction ...
_SAME = 0.1
# ... if the levels differ by at least this factor.
_APART = 3.0
# Second differences are those of noise if they fall by no more than this factor, while the distance falls by the other.
_FLAT, _FAR_APART = 0.3, 30.0
# ... and if they are not small compared with the derivative: outward, an oscillation looks like noise.
_BENT = 0.1


class Levels:
    """All levels of ``c`` coordinates and ``m`` outputs, ``L`` of each, by ascending distance.

    Args:
        offsets: Offsets of the points, shape ``(L, 2, c)``; NaN where there are none.
        values: Values there, shape ``(L, 2, c, m)``; NaN where there are none.
        base: Value at ``x``, shape ``(m,)``.
        noise_f: Absolute noise of the values, shape ``(c, m)``.

    Attributes:
        h, derivative, bend, noise: As above, and the error of the derivative by noise, shape ``(L, c, m)``; NaN where a
            value is missing.
        left, right: Slopes to the lower and to the higher point, shape ``(L, c, m)``.
        changes: ``f_a - f_0`` and ``f_b - f_0``, shape ``(2, L, c, m)``.
        there: Whether the level has values, shape ``(L, c, m)``.
        side: 0 for points on both sides, else 1 or -1, shape ``(L, c, 1)``.
        distance: ``h``, also where values are missing; NaN where nothing was evaluated, shape ``(L, c)``.
        evaluated: Whether the level was evaluated, even if a value is missing, shape ``(L, c)``.
    """

    def __init__(
        self,
        offsets: NDArray[np.float64],
        values: NDArray[np.inexact],
        base: NDArray[np.inexact],
        noise_f: NDArray[np.float64],
    ) -> None:
        distance = np.sqrt(np.abs(offsets[:, 0])) * np.sqrt(np.abs(offsets[:, 1]))
        order = np.argsort(np.where(np.isfinite(distance), distance, np.inf), axis=0, kind="stable")
        offsets = np.take_along_axis(offsets, order[:, None], axis=0)
        values = np.take_along_axis(values, order[:, None, :, None], axis=0)
        a, b = offsets[:, 0, :, None], offsets[:, 1, :, None]
        self._given = offsets, values, base
        self.noise_f = noise_f
        self.distance = np.take_along_axis(distance, order, axis=0)
        self.evaluated = np.isfinite(self.distance)
        self.changes = np.moveaxis(values - base, 1, 0)
        slope_a, slope_b = self.changes[0] / a, self.changes[1] / b
        self.derivative = (b * slope_a - a * slope_b) / (b - a)
        self.there = np.isfinite(self.derivative)
        self.h = np.where(self.there, self.distance[:, :, None], np.nan)
        self.bend = self.h * np.abs(slope_a - slope_b) / np.abs(a - b)
        weight_a, weight_b = b / (b - a) / a, -a / (b - a) / b
        norm = np.hypot(np.hypot(weight_a, weight_b), weight_a + weight_b)
        self.noise = np.where(self.there, ROUNDING * norm * noise_f, np.nan)
        self.left, self.right = np.where(a < b, slope_a, slope_b), np.where(a < b, slope_b, slope_a)
        self.side = np.where(np.sign(a) == np.sign(b), np.sign(a), 0.0)

    def with_noise(self, noise_f: NDArray[np.float64]) -> Levels:
        """The same levels with at least this noise of the values, shape ``(c, m)``."""
        if not (noise_f > self.noise_f).any():
            return self
        return Levels(*self._given, np.maximum(self.noise_f, noise_f))

    def __len__(self) -> int:
        return len(self.h)

    def seen_bend(self) -> NDArray[np.float64]:
        """The bend where it is above its noise, else 0, shape ``(L, c, m)``."""
        return np.where(self.bend > _SEEN * self.noise, self.bend, 0.0)

    def parabolic(self) -> Mask:
        """Whether a level and the next larger one are smooth, although the bend is seen, shape ``(L, c, m)``.

        The bend must fall with the distance at least as for a parabola, and the derivative must stay where it was. The
        latter tells a kink at a third of the larger distance from a parabola: there the bends alone agree.
        """
        result = np.zeros(self.there.shape, bool)
        for i in range(len(self) - 1):
            ratio = self.h[i] / self.h[i + 1]
            predicted = self.bend[i + 1] * ratio
            noise = _SEEN * (self.noise[i] + ratio * self.noise[i + 1])
            known = noise < predicted / 2
            falls = self.bend[i] <= (1 + _AGREE) * predicted + noise
            stays = np.abs(self.derivative[i] - self.derivative[i + 1]) <= _STAYS * np.maximum(
                self.bend[i + 1], np.abs(self.derivative[i])
            ) + _SEEN * (self.noise[i] + self.noise[i + 1])
            result[i] = known & falls & stays & (ratio < 1 / _APART)
        return result

    def truncation(self) -> NDArray[np.float64]:
        """Truncation error of each level, shape ``(L, c, m)``.

        Two levels differ by ``c (h_2**2 - h_1**2)``, as far as this is above the noise. A level by itself has ``B**2 /
        D``, as if the terms of a Taylor series fell at the same rate.
        """
        ratio = np.where(self.bend > 0, self.bend / np.abs(self.derivative), 0.0)
        result = np.where(self.there & ~self.parabolic(), self.bend * np.minimum(1.0, 2 * ratio), 0.0)
        for i in range(len(self)):
            for j in (i - 1, i + 1):
                if 0 <= j < len(self):
                    difference = np.abs(self.derivative[i] - self.derivative[j])
                    if j < i:
                        difference = np.where(difference > self.noise[i] + self.noise[j], difference, 0.0)
                    estimate = difference / np.abs((self.h[j] / self.h[i]) ** 2 - 1)
                    result[i] = np.fmax(result[i], estimate)
        return result

    def best_h(self) -> NDArray[np.float64]:
        """The distance with the least error by noise and truncation, shape ``(c, m)``; NaN where no truncation is seen.

        Noise ``N h_1 / h`` and truncation ``T (h / h_1)**2`` have the least sum at ``h = h_1 (N / (2 T))**(1/3)``. The
        truncation is that by the two smallest levels that differ by more than noise.
        """
        result = np.full(self.there.shape[1:], np.nan)
        for i in range(len(self) - 2, -1, -1):
            difference = np.abs(self.derivative[i] - self.derivative[i + 1])
            seen = difference > 2 * (self.noise[i] + self.noise[i + 1])
            truncation = difference / (1 - (self.h[i] / self.h[i + 1]) ** 2)
            best = self.h[i + 1] * np.cbrt(self.noise[i + 1] / (2 * truncation))
            result = np.where(seen, best, result)
        return result

    def farther(self) -> NDArray[np.float64]:
        """The largest derivative at larger levels within a factor of 1000, as far as it is seen, shape ``(L, c, m)``.

        The derivative varies by that much nearby, so an error that is small compared with it is small. Levels at which
        the slopes on the two sides differ by more do not count: their step is too large.
        """
        derivative = np.abs(self.derivative)
        counts = (derivative > _SEEN * self.noise) & (self.seen_bend() <= derivative / 2)
        size = np.where(counts, derivative, 0.0)
        result = np.zeros(self.there.shape)
        for i in range(len(self)):
            for j in range(i + 1, len(self)):
                result[i] = np.where(self.h[j] <= 1000 * self.h[i], np.fmax(result[i], size[j]), result[i])
        return result

    def shrinks(self) -> Mask:
        """Whether the values change less than at levels four times as large, or more, shape ``(L, c, m)``.

        And much less than at far larger ones. If they do not, there is noise, or a jump, that looks smooth by chance.
        """
        change = np.abs(self.changes).max(axis=0)
        result = np.ones(self.there.shape, bool)
        for i in range(len(self)):
            for j in range(i + 1, len(self)):
                ratio = self.h[i] / self.h[j]
                least = np.where(ratio < 1 / _FAR_APART, 0.2, 0.7)
                as_much = (change[i] > least * change[j]) & (change[i] > 0)
                result[i] &= ~(self.there[j] & (ratio < 1 / 4) & as_much)
        return result

    def slopes(self) -> NDArray[np.inexact]:
        """Slopes to the left and to the right at the smallest level whose bend is seen, shape ``(2, c, m)``."""
        smallest = np.where(self.seen_bend() > 0, self.h, np.inf).argmin(axis=0)[None]
        return np.stack([np.take_along_axis(side, smallest, axis=0)[0] for side in (self.left, self.right)])

    def hidden_noise(self) -> NDArray[np.float64]:
        """Noise that the values show where it is larger than was assumed, shape ``(c, m)``; 0 where it does not show.

        The second difference of a smooth function falls as ``h**2``, at a kink as ``h``; that of noise does not fall.
        Values that do not change at all at one level, although the slopes at a larger one say so, move on a grid.
        """
        result = np.zeros(self.there.shape[1:])
        second = self.bend * self.h * 2
        change = np.abs(self.changes).max(axis=0)
        slope = np.maximum(np.abs(self.left), np.abs(self.right))
        bent, jumps = self.seen_bend() > _BENT * np.abs(self.derivative), self.jumps()
        for i in range(len(self)):
            for j in range(i + 1, len(self)):
                both = self.there[i] & self.there[j] & (result == 0)
                expected = slope[j] * self.h[i]
                grid = both & (change[i] == 0) & (expected > _SEEN * self.noise_f)
                result = np.where(grid, expected, result)
                flat = both & (self.h[i] < self.h[j] / _FAR_APART) & (second[i] > _FLAT * second[j]) & bent[i] & ~jumps
                result = np.where(flat, np.maximum(second[i], second[j]) / 2, result)
        return result

    def repeats(self, first: NDArray[Any], second: NDArray[Any], shown: Mask) -> Mask:
        """Whether two quantities ``(L, c, m)`` are the same at up to three levels, from the smallest on, ``(c, m)``.

        Of the levels where they are shown, ``(L, c, m)``, there must be two far apart.
        """
        count = np.zeros(self.there.shape[1:], np.int64)
        same = np.ones(self.there.shape[1:], bool)
        reference = [np.full(self.there.shape[1:], np.nan, one.dtype) for one in (first, second)]
        last_h = np.full(self.there.shape[1:], np.nan)
        for i in range(len(self)):
            usable = shown[i] & self.there[i] & (np.isnan(last_h) | (self.h[i] > _APART * last_h)) & (count < 3)
            size = np.maximum(np.abs(first[i]), np.abs(second[i]))
            size = np.maximum(size, np.abs(first[i] - second[i]))
            for now, before in zip((first[i], second[i]), reference, strict=True):
                same &= ~usable | (count == 0) | (np.abs(now - before) <= _SAME * size)
            reference = [
                np.where(usable & (count == 0), now, before)
                for now, before in zip((first[i], second[i]), reference, strict=True)
            ]
            last_h = np.where(usable, self.h[i], last_h)
            count = count + usable
        return same & (count >= 2)

    def kinked(self) -> Mask:
        """Whether the slopes on the two sides stay different as the distance shrinks, shape ``(c, m)``."""
        return self.repeats(self.left, self.right, self.seen_bend() > 0) & (self.side == 0).any(axis=0)

    def jumps(self) -> Mask:
        """Whether values change by the same amounts however small the distance is, shape ``(c, m)``."""
        shown = np.abs(self.changes).max(axis=0) > 1.5 * self.noise_f
        return self.repeats(self.changes[0], self.changes[1], shown)
