"""The steps with which a differentiation starts, and the noise of the function on which they depend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.differentiation.directions import line_noise
from distnum.differentiation.options import Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.stencils.steps import step_sizes
from distnum.evaluation.values import flat_value

__all__ = ["steps_and_noise"]


def steps_and_noise(
    request: Request, rounds: Rounds, name: Callable[[int], str]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The steps that a request asks for, and the noise that it states.

    Args:
        request: What is differentiated.
        rounds: Evaluates the function, if the steps depend on its noise.
        name: Returns the name of the coordinate at a position in ``indices``.

    Returns:
        Steps, shape ``(c,)``; absolute noise of each output, shape ``(m,)``, or None if none is stated.
    """
    noise, relative = None, None
    if request.noise is not None:
        if rounds.base is None:
            rounds.evaluate_all(Places.of_base(request.x))
        noise = _stated_noise(request, rounds)
        size = float(np.abs(rounds.known_base).max(initial=0.0, where=np.isfinite(rounds.known_base)))
        relative = min(float(noise.max()) / size, 1.0) if size > 0 else 1.0
    h = None if request.may_search else request.h
    chosen = {"h": h, "rel_step": request.rel_step, "x_scale": request.x_scale}
    chosen |= {"lower": request.lower, "upper": request.upper}
    chosen = {key: one if one is None or np.ndim(one) == 0 else one[request.indices] for key, one in chosen.items()}
    x = request.x[request.indices]
    return step_sizes(request.scheme, x, noise=relative, entry_name=name, **chosen), noise


def _stated_noise(request: Request, rounds: Rounds) -> NDArray[np.float64]:
    """The absolute noise that the user states, shape ``(m,)``."""
    base = rounds.known_base
    if isinstance(request.noise, str):
        if request.noise != "estimate":
            raise InputError(
                f"noise is {request.noise!r}; it must be a number, numbers in the form of fun(x), or 'estimate'."
            )
        level, _ = line_noise(rounds, request.x, request.lower, request.upper)
        return np.nan_to_num(level, nan=0.0)
    if np.ndim(request.noise) == 0 and not isinstance(request.noise, dict):
        noise = np.full(len(base), float(request.noise))
    else:
        try:
            _, flat = flat_value(request.noise, rounds.value_form)
        except InputError:
            raise InputError(
                f"noise is {request.noise!r:.60}; it must be one number, or numbers in the form of fun(x), "
                f"{rounds.value_form}."
            ) from None
        noise = np.real(flat).astype(np.float64)
    if not (np.isfinite(noise).all() and (noise >= 0).all()):
        raise InputError(f"noise is {request.noise!r:.60}; it must be finite and not negative.")
    return noise
