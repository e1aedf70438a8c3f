"""SciPy's ``approx_derivative``, its options translated to those of distnum."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

import distnum

__all__ = ["approx_derivative"]


def approx_derivative(
    fun: Any,
    x0: Any,
    method: str = "3-point",
    rel_step: Any = None,
    abs_step: Any = None,
    f0: Any = None,
    bounds: Any = (-np.inf, np.inf),
    sparsity: Any = None,
    as_linear_operator: bool = False,
    args: Any = (),
    kwargs: Any = None,
    full_output: bool = False,
    workers: Any = None,
) -> Any:
    """The Jacobian of ``fun``, shape ``(m, n)``, or ``(n,)`` if ``m`` is 1."""
    x = np.atleast_1d(x0)
    if x.dtype == np.float16:  # distnum takes float32 and float64
        x = x.astype(np.float32)
    if as_linear_operator:
        return _operator(fun, x, bounds, args, kwargs)
    options: dict[str, Any] = {"scheme": method, "f0": f0, "bounds": bounds, "sparsity": sparsity}
    options |= {"args": args, "kwargs": kwargs}
    steps = rel_step if abs_step is None else abs_step
    if steps is not None:
        options["rel_step" if abs_step is None else "h"] = np.abs(steps)
    # To SciPy, a number of workers is one of processes.
    processes = ProcessPoolExecutor(workers) if isinstance(workers, int) else nullcontext(workers or 0)
    with processes as options["workers"]:
        derivative = distnum.differentiate(fun, x, **options)
    jac = derivative.jac
    if method == "2-point" and steps is not None:  # SciPy moves coordinates with a negative step down
        down = np.less(steps, 0).astype(int)
        if down.any():
            options |= {"scheme": "backward", "workers": 0}
            jac = jac * (1 - down) + distnum.jacobian(fun, x, **options) * down
    if sparsity is None:
        jac = jac.reshape(-1, x.size)
        jac = jac[0] if len(jac) == 1 else jac
    return (jac, {"nfev": derivative.n_evals}) if full_output else jac


def _operator(fun: Any, x: Any, bounds: Any, args: Any, kwargs: Any) -> LinearOperator:
    """The Jacobian as an operator: every product is a directional derivative, by central differences."""
    if np.isfinite(bounds[0]).any() or np.isfinite(bounds[1]).any():
        raise ValueError("distnum.directional takes no bounds")

    def product(v: Any) -> Any:
        return np.atleast_1d(distnum.directional(fun, x, v, args=args, kwargs=kwargs))

    m = np.size(fun(x, *args, **(kwargs or {})))
    return LinearOperator((m, x.size), product, dtype=float)
