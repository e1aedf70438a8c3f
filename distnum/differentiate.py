"""The numerical gradient of any function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.objectives import BlackBox, Layout
from distnum.plan import assemble, make_shards
from distnum.pools import Pool, RayPool, SerialPool

__all__ = ["gradient"]


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
    layout, flat = Layout.of(x)
    objective = BlackBox(lambda params, batch: f(params), layout, flat.size, scheme, h)
    pool: Pool
    if workers == 0:
        pool = SerialPool(objective, _no_batch)
    else:
        pool = RayPool(objective, _no_batch, workers, address=address, dtype=flat.dtype)
    grad: NDArray[np.floating] = np.empty_like(flat)
    with pool:
        shards = make_shards(objective.expected_costs(None), pool.n_workers)
        for shard, grad_slice in zip(shards, pool.grad_slices(1, flat, shards), strict=True):
            assemble(grad, objective.tiles, shard, grad_slice.values)
    return layout.view(grad)


def _no_batch(step: int) -> None:
    return None
