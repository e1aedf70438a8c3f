"""The numerical gradient of a Python function, and a check of one that was derived by hand."""

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
        f: Function of one argument in the form of ``x`` that returns one number. It must not keep
            or change its argument. With workers it is sent to other processes.
        x: An array of any shape, or a dict of arrays; float32 or float64.
        scheme: ``forward``, ``backward``, ``central`` or ``central4``.
        h: Step; by default ``eps ** (1 / (order + 1)) * max(1, |x|)`` for each parameter, with the
            ``order`` of the scheme.
        workers: Number of Ray workers; 0 evaluates ``f`` in this process, without Ray.
        address: Address of a running Ray cluster.

    Returns:
        The partial derivatives, in the form, shapes and dtype of ``x``.

    Raises:
        InputError: ``x``, the scheme or ``h`` cannot be used.
        TrainingError: ``f`` is not finite at some point.

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
    """Difference between a gradient and the numerical one.

    Attributes:
        error: Euclidean norm of the difference relative to the larger norm of the two gradients; 0 if both are zero.
        worst: Name of the partial derivative that differs most, such as ``W[3, 17]`` or ``x[5]``.
        given: That partial derivative in the gradient that was given.
        numerical: The same by finite differences.
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
    """Compare a gradient that was derived by hand with the numerical one.

    In float64 a correct gradient of a smooth function has an ``error`` of 1e-12 to 1e-8, a wrong
    one usually above 1e-4. Near a kink, such as that of ReLU, the two differ although both are correct.

    Args:
        f: Function, as for ``gradient``.
        grad: Its gradient at ``x``, in the form of ``x``; or a function that returns it.
        x: Point at which the gradients are compared.
        scheme, h, workers, address: As for ``gradient``.

    Raises:
        InputError: As ``gradient``; or ``grad`` does not have the form of ``x``.

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
