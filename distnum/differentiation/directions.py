"""Derivatives along directions, and the noise of a function along a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.checks import checked, whole
from distnum.common.errors import InputError, NotFiniteError
from distnum.differentiation.judgment.noise import noise_level
from distnum.differentiation.options import Options, Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.stencils.steps import default_h
from distnum.evaluation.backends import backend_of
from distnum.evaluation.points import Points

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Noise", "along", "directional", "estimate_noise", "line_noise"]


def directional(fun: Callable[..., Any], x: Any, v: Any, **options: Unpack[Options]) -> Any:
    """The derivative of ``fun`` at ``x`` along ``v``: the Jacobian times ``v``, by two evaluations.

    Args:
        fun, x: As for ``differentiate``.
        v: The direction, in the form of ``x``; it need not have length one. Along zeros the derivative is zero, as
            optimizers that use products with the Jacobian expect.
        **options: ``h`` (the factor of ``v``), ``args``, ``kwargs``, ``workers``, ``address``, ``retries``,
            ``timeout`` and ``store``, as for ``differentiate``.

    Returns:
        ``(fun(x + h v) - fun(x - h v)) / (2 h)``, in the form of the value of ``fun``. By default ``h`` is the largest
        that moves no parameter by more than the default step of the central difference. Two values cannot be judged:
        unlike ``differentiate``, this does not see whether the step fits the function.

    Raises:
        InputError: An argument cannot be used.
        NotFiniteError: The function is not finite at one of the two points.

    >>> directional(lambda x: float(x @ x), np.array([1.0, 2.0]), np.array([1.0, 1.0])).__round__(6)
    6.0
    """
    given: dict[str, Any] = dict(options)
    h = given.pop("h", None)
    for name in given:
        if name in Options.__annotations__ and name not in _OF_DIRECTIONS:
            raise InputError(f"{name} is given, but a direction takes only h, {', '.join(_OF_DIRECTIONS)}.")
    if h is not None and (not isinstance(h, (int, float)) or not 0 < h < np.inf):
        raise InputError(f"h is {h!r:.60}; for a direction it must be a positive number, the factor of v.")
    request = Request.of(fun, x, given)
    direction = request.form.flatten(v, "v").astype(np.float64)
    if not np.isfinite(direction).all():
        wrong = int(np.flatnonzero(~np.isfinite(direction))[0])
        raise InputError(f"v is {direction[wrong]:g} for {request.form.entry_name(wrong)}; it must be finite.")
    with backend_of(request.workers, request.address, request.store) as backend:
        rounds = Rounds(request, backend, keep_table=False)
        derivative = along(rounds, request.x, direction, h)
    if not np.isfinite(derivative).all():
        raise NotFiniteError("The function is not finite, or failed, at one of the two points along v.")
    assert rounds.value_form is not None
    return rounds.value_form.view(derivative)


def along(
    rounds: Rounds, x: NDArray[np.floating], direction: NDArray[np.float64], h: float | None = None
) -> NDArray[np.inexact]:
    """The central difference along a direction, shape ``(m,)``; NaN if an evaluation fails."""
    if h is None:
        h = step_along(x, direction) if direction.any() else 1.0
    ends = np.stack([x + h * direction, x - h * direction]).astype(x.dtype)
    points = Points.of_vectors(x, ends)
    values = rounds.evaluate_all(Places(np.full(2, -2), np.array([h, -h]), points))
    return (values[0].astype(np.result_type(values, np.float64)) - values[1]) / (2 * h)


def step_along(x: NDArray[np.floating], direction: NDArray[np.float64]) -> float:
    """The largest factor of a direction that moves no entry by more than its default step."""
    from distnum.differentiation.stencils.schemes import SCHEMES

    relative = default_h(SCHEMES["central"], x.dtype)
    sizes = np.maximum(np.abs(x.astype(np.float64)), 1.0)
    return float(relative / (np.abs(direction) / sizes).max())


# Options of ``directional`` besides h.
_OF_DIRECTIONS = ("args", "kwargs", "workers", "address", "retries", "timeout", "store", "workdir")


@dataclass(frozen=True)
class Noise:
    """Noise of a function's value at a point.

    Attributes:
        level: Standard deviation of each number of the value, in the form of the value; NaN where it was not found.
        h: Distance of the points that were used, as a fraction of the size of each parameter.
        n_evals: Number of evaluations.
        success: Whether the level of every number was found.
        message: What is to be known about it.
    """

    level: Any
    h: float
    n_evals: int
    success: bool
    message: str


def estimate_noise(
    fun: Callable[..., Any], x: Any, *, points: int = 9, seed: int = 0, **options: Unpack[Options]
) -> Noise:
    """The noise of ``fun`` near ``x``: what is left of its differences along a short line (ECnoise).

    Deterministic functions have noise too: a solver that stops at a tolerance, a sum in a varying order, rounding. Two
    calls with the same result do not exclude it.

    Source: J. Moré and S. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011).

    Args:
        fun, x: As for ``differentiate``.
        points: Number of points on a line in a random direction, at least 7. Up to three lines are tried.
        seed: Seed of the direction.
        **options: As for ``differentiate``; those about steps and schemes do not matter.

    Returns:
        The noise; its ``level`` can be given to ``differentiate`` as ``noise``.

    Raises:
        InputError: An argument cannot be used.
    """
    n_points = int(checked("points", points, whole(7, 1000)))
    seed = int(checked("seed", seed, whole(0)))
    request = Request.of(fun, x, options)
    with backend_of(request.workers, request.address, request.store) as backend:
        rounds = Rounds(request, backend, keep_table=False)
        level, h = line_noise(rounds, request.x, request.lower, request.upper, n_points, seed)
    if rounds.value_form is None:
        raise NotFiniteError("The function has no finite value near x.")
    found = bool(np.isfinite(level).all())
    message = (
        f"Found by {rounds.n_evals} evaluations."
        if found
        else (
            f"Not found for {int((~np.isfinite(level)).sum())} of {len(level)} numbers: the function varies too much, "
            "or not at all, at the distances that were tried."
        )
    )
    return Noise(rounds.value_form.view(level), h, rounds.n_evals, found, message)


def line_noise(
    rounds: Rounds,
    x: NDArray[np.floating],
    lower: NDArray[np.floating] | None = None,
    upper: NDArray[np.floating] | None = None,
    n_points: int = 9,
    seed: int = 0,
    n_lines: int = 3,
) -> tuple[NDArray[np.float64], float]:
    """Noise of the function's value along a line in a random direction.

    Args:
        rounds: Evaluates the function.
        x: Middle of the line, shape ``(n,)``.
        lower, upper: Bounds, which are not crossed: coordinates near one of them are not moved.
        n_points: Number of points of a line.
        seed: Seed of the direction.
        n_lines: Number of lines that are tried, with other distances, as long as the noise is not found.

    Returns:
        The noise, shape ``(m,)``, NaN where it is not found; and the spacing that was used last.
    """
    direction = np.random.default_rng(seed).standard_normal(len(x))
    direction *= np.maximum(np.abs(x.astype(np.float64)), 1.0) / np.abs(direction).max()
    places_of = np.arange(n_points) - n_points // 2
    # The whole line is about 1e-6 (float64) of the size of x, or 1e-3 (float32).
    spacing = float(np.finfo(x.dtype).eps) ** (3 / 8) / n_points
    level = np.full(0, np.nan)
    for _ in range(n_lines):
        reach = np.abs(direction) * spacing * n_points
        inside = np.ones(len(x), bool)
        inside &= True if lower is None else x - lower >= reach
        inside &= True if upper is None else upper - x >= reach
        vectors = (x + np.outer(places_of * spacing, np.where(inside, direction, 0.0))).astype(x.dtype)
        places = Places(np.full(n_points, -2), places_of * spacing, Points.of_vectors(x, vectors))
        found, factor = noise_level(rounds.evaluate_all(places, raises=False))
        level = found if not len(level) else np.where(np.isnan(level), found, level)
        if factor == 1 or np.isfinite(level).all():
            break
        spacing *= factor
    return level, spacing
