"""What a mistake in a gradient may be: a sign, a factor, a transposed array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnum.evaluation.forms import Form

__all__ = ["hint_of"]

_SAME = 1e-3


def hint_of(
    given: NDArray[np.floating], numerical: NDArray[np.floating], wrong: NDArray[np.bool_], form: Form, sizes: set[int]
) -> str:
    """A sentence on the mistake in the wrong entries; "" if nothing fits.

    Args:
        given, numerical: The two gradients, shape ``(n,)``.
        wrong: Which entries are wrong, shape ``(n,)``.
        form: Form of the gradients.
        sizes: Numbers of examples, lengths of axes and the like, by which a gradient may have been divided or not.
    """
    a, b = given[wrong].astype(np.float64), numerical[wrong].astype(np.float64)
    if not len(a):
        return ""
    if not a.any():
        return "The wrong entries are zero in the given gradient: is a term, or the whole array, left out?"
    if len(a) == given.size == 1 or len(a) >= 2 or _near_a_word(a[0], b[0], sizes):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = a / b
        ratio = float(np.median(ratios))
        if np.isfinite(ratios).all() and np.allclose(ratios, ratio, rtol=_SAME, atol=0):
            return _ratio_hint(ratio, sizes, several=len(a) > 1)
    return _transposed(given, numerical, wrong, form)


def _near_a_word(a: float, b: float, sizes: set[int]) -> bool:
    return bool(b) and _ratio_hint(a / b, sizes, several=False) != ""


def _ratio_hint(ratio: float, sizes: set[int], several: bool) -> str:
    if abs(ratio + 1) < _SAME:
        return "The wrong entries have the wrong sign."
    for factor in (2.0, 0.5, -2.0, -0.5):
        if abs(ratio / factor - 1) < _SAME:
            sign = " and have the wrong sign" if factor < 0 else ""
            text = f"The wrong entries are {abs(factor):g} times too large{sign}: "
            return text + "is a factor 1/2, or the 2 of a square, missing?"
    for size in sorted(sizes) if several else []:
        if size > 2 and abs(ratio / size - 1) < _SAME:
            return f"The wrong entries are {size} times too large, a length that occurs here: is 1/n missing?"
        if size > 2 and abs(ratio * size - 1) < _SAME:
            return f"The wrong entries are {size} times too small, a length that occurs here: is 1/n there twice?"
    return ""


def _transposed(
    given: NDArray[np.floating], numerical: NDArray[np.floating], wrong: NDArray[np.bool_], form: Form
) -> str:
    for number, shape in enumerate(form.shapes):
        part = slice(form.starts[number], form.starts[number + 1])
        if len(shape) == 2 and wrong[part].any():
            a, b = given[part].reshape(shape), numerical[part].reshape(shape)
            other = b.T.reshape(shape) if shape[0] != shape[1] else b.T
            if np.allclose(a, other, rtol=_SAME, atol=_SAME * float(np.abs(b).max())):
                return f"{form.names[number]} looks transposed."
    return ""
