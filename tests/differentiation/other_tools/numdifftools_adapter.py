"""``Derivative``, ``Gradient``, ``Jacobian`` and ``directionaldiff`` of numdifftools by distnum."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import distnum

__all__ = ["Derivative", "Gradient", "Jacobian", "directionaldiff"]


class Gradient:
    """The gradient of ``fun`` as a function of ``x``.

    Args:
        fun: Function of ``x`` and further arguments.
        step: Steps to choose from; distnum chooses its own.
        method: ``"central"``, ``"forward"``, ``"backward"``, ``"complex"`` or ``"multicomplex"``; for first derivatives
            the last two are alike.
        order: Order of accuracy before extrapolation.
        n: Which derivative; there is only the first.
        full_output: Whether to return an error estimate, too.
        **_: Options of the extrapolation; distnum does not extrapolate.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        step: Any = None,
        method: str = "central",
        order: int = 2,
        n: int = 1,
        full_output: bool = False,
        **_: Any,
    ) -> None:
        if n != 1:
            raise NotImplementedError(f"distnum has no derivative of order {n}")
        self._fun, self._full_output = fun, full_output
        self._options: dict[str, Any] = {"scheme": method.removeprefix("multi")}
        if "complex" not in method:
            # numdifftools extrapolates twice: central differences of order 2 become those of order 6.
            self._options["order"] = min(order + 4, 8) if method == "central" else 2
            self._options["h"] = None if step is None else "adaptive"

    def _result(self, x: Any, view: Callable[[Any], Any], args: Any, kwargs: Any, **options: Any) -> Any:
        found = distnum.differentiate(self._fun, x, args=args, kwargs=kwargs, **self._options, **options)
        if self._full_output:
            return SimpleNamespace(estimate=view(found.jac), error_estimate=view(found.error), final_step=found.h)
        return view(found.jac)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return self._result(np.atleast_1d(x).astype(float), np.squeeze, args, kwargs)


class Jacobian(Gradient):
    """The Jacobian of ``fun`` as a function of ``x``; a single output counts as a vector of one number."""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        array = np.atleast_1d(x).astype(float)
        return self._result(array, lambda jac: jac[None] if jac.ndim == array.ndim else jac, args, kwargs)


class Derivative(Gradient):
    """The derivative of each entry of ``fun(x)`` by the same entry of ``x``."""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        array = np.asarray(x, float)
        if array.ndim == 0:
            return self._result(array, np.asarray, args, kwargs)

        def diagonal(jac: Any) -> Any:
            return jac.diagonal().reshape(array.shape)

        return self._result(array, diagonal, args, kwargs, sparsity=np.eye(array.size))


def directionaldiff(f: Callable[..., Any], x0: Any, vec: Any, full_output: bool = False) -> Any:
    """The derivative of ``f`` at ``x0`` along the unit vector in the direction ``vec``."""
    found = distnum.directional(f, np.asarray(x0, float), np.asarray(vec) / np.linalg.norm(vec))
    return SimpleNamespace(estimate=found) if full_output else found
