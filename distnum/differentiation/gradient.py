"""The numerical gradient of any function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnum.common.checks import checked, whole
from distnum.common.errors import InputError
from distnum.differentiation.black_box import BlackBox, check_takes, no_batch
from distnum.differentiation.parameters import ParamsLayout
from distnum.workers.pool import Pool
from distnum.workers.ray_pool.pool import RayPool
from distnum.workers.serial_pool import SerialPool

__all__ = ["GradientCheck", "check_gradient", "gradient"]


def gradient(
    f: Callable[[Any], float],
    x: Any,
    *,
    scheme: str = "central",
    h: float | None = None,
    workers: int = 0,
    address: str | None = None,
) -> Any:
    """The gradient of ``f`` at ``x`` by finite differences.

    Args:
        f: takes what ``x`` is and returns one number. It must not keep or change its
            argument. With workers it is sent to other processes.
        x: an array of any shape, or a dict of arrays; float32 or float64.
        scheme: ``forward``, ``backward``, ``central`` or ``central4``.
        h: the step; by default ``eps ** (1 / (order + 1)) * max(1, |x|)`` for each
            parameter, where ``order`` is the scheme's.
        workers: Ray workers to evaluate ``f`` on; 0 evaluates it here, without Ray.
        address: of a Ray cluster that runs already.

    Returns:
        partial derivatives, in the form, shapes and dtype of ``x``.

    Raises:
        InputError: ``x``, the scheme or ``h`` cannot be used.
        TrainingError: ``f`` is not finite somewhere.

    >>> gradient(lambda x: float(x[0] ** 2 + 3 * x[1]), np.array([2.0, 1.0])).round(6)
    array([4., 3.])
    """
    layout, flat = ParamsLayout.of(x, "x")
    check_takes(f, "f", ("x",))
    workers = checked("workers", workers, whole(0, 100_000))
    objective = BlackBox(lambda params, batch: f(params), layout, flat.size, scheme, h)
    pool: Pool
    if workers == 0:
        pool = SerialPool(objective, no_batch)
    else:
        pool = RayPool(objective, no_batch, workers, address=address, dtype=flat.dtype)
    with pool:
        return layout.view(pool.compute(1, flat).answers)


@dataclass(frozen=True)
class GradientCheck:
    """How far a gradient is from the numerical one.

    Attributes:
        error: Euclidean norm of the difference, over the larger norm of the two gradients; 0 if both are zero.
        worst: the name of the partial derivative that differs most: ``W[3, 17]`` or ``x[5]``.
        given, numerical: that partial derivative, as it was given and by differences.
    """

    error: float
    worst: str
    given: float
    numerical: float


def check_gradient(
    f: Callable[[Any], float],
    grad: Any,
    x: Any,
    *,
    scheme: str = "central4",
    h: float | None = None,
    workers: int = 0,
    address: str | None = None,
) -> GradientCheck:
    """Hold a gradient that was derived by hand against the numerical one.

    In float64 a right gradient of a smooth function has an ``error`` of 1e-12 to 1e-8, a wrong
    one usually above 1e-4. Near a kink, as that of ReLU, the two differ although both are right.

    Args:
        f: the function, as for ``gradient``.
        grad: its gradient at ``x``, in the form of ``x``; or a function from ``x`` to it.
        x: where.
        scheme, h, workers, address: as for ``gradient``.

    Raises:
        InputError: as ``gradient``; or ``grad`` has not the form of ``x``.

    >>> x = np.array([2.0, 1.0])
    >>> check_gradient(lambda x: float(x[0] ** 2 * x[1]), lambda x: np.array([2 * x[0] * x[1], x[0] ** 2]), x)
    GradientCheck(error=..., worst='x[...]', given=4.0, numerical=4.0...)
    >>> check_gradient(lambda x: float(x[0] ** 2 * x[1]), np.array([4.0, 1.0]), x).worst
    'x[1]'
    """
    numerical = ParamsLayout.of(gradient(f, x, scheme=scheme, h=h, workers=workers, address=address), "gradient")[1]
    layout, _ = ParamsLayout.of(x, "x")
    given_layout, given = ParamsLayout.of(grad(x) if callable(grad) else grad, "grad")
    if (given_layout.names, given_layout.shapes) != (layout.names, layout.shapes):
        raise InputError(f"grad has {given_layout}, but x has {layout}; they must be the same.")
    larger = max(float(np.linalg.norm(given)), float(np.linalg.norm(numerical)))
    difference = np.abs(given - numerical)
    worst = int(difference.argmax())
    return GradientCheck(
        error=float(np.linalg.norm(difference)) / larger if larger else 0.0,
        worst=layout.param_name(worst),
        given=float(given[worst]),
        numerical=float(numerical[worst]),
    )
