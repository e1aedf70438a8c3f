"""Derivatives as plain values, and functions that return them, as optimizers want them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from distnum.common.errors import InputError
from distnum.differentiation.derivative import Derivative
from distnum.differentiation.deriving import derive
from distnum.differentiation.options import Options, Request, check_names
from distnum.evaluation.backends import backend_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["gradient", "gradient_of", "jacobian", "jacobian_of", "value_and_gradient"]


def gradient(fun: Callable[..., Any], x: Any, **options: Unpack[Options]) -> Any:
    """The gradient of ``fun`` at ``x`` by finite differences.

    Args:
        fun: Function of ``x`` that returns one number.
        x: A number, an array of any shape, or nested dicts, lists and tuples of them.
        **options: As for ``differentiate``.

    Returns:
        The partial derivatives, in the form of ``x``; of its dtype if that is a type of floating-point numbers.

    Raises:
        InputError: An argument cannot be used, or ``fun`` returns more than one number.
        NotFiniteError: ``fun`` is not finite at some point, and nearby points do not help.

    Warns:
        DerivativeWarning: Some entries are not settled: ``fun`` is too noisy, or has a kink or a jump there.

    >>> import numpy as np
    >>> gradient(lambda x: float(x[0] ** 2 + 3 * x[1]), np.array([2.0, 1.0])).round(6)
    array([4., 3.])
    >>> round(gradient(lambda p: p["a"] * p["b"][1] + p["b"][0], {"a": 2.0, "b": [1.0, 5.0]})["a"], 6)
    5.0
    """
    return _scalar(derive(Request.of(fun, x, options), full=False)).grad


def jacobian(fun: Callable[..., Any], x: Any, **options: Unpack[Options]) -> Any:
    """The Jacobian of ``fun`` at ``x`` by finite differences.

    Args:
        fun: Function of ``x`` that returns a number, an array of any shape, or a dict of them.
        x: A number, an array of any shape, or nested dicts, lists and tuples of them.
        **options: As for ``differentiate``.

    Returns:
        An array of shape ``f.shape + x.shape``. If ``fun`` returns a dict, such arrays by its keys; if ``x`` is a
        dict, a list or a tuple, each of them in that form. With ``sparsity``, a ``scipy.sparse.csr_array`` of shape
        ``(fun(x).size, x.size)`` in place of each array.

    Raises, Warns: As ``gradient``.

    >>> import numpy as np
    >>> jacobian(lambda x: np.array([x[0] * x[1], x[0]]), np.array([2.0, 3.0])).round(6)
    array([[3., 2.],
           [1., 0.]])
    """
    return derive(Request.of(fun, x, options), full=False).jac


def _scalar(derivative: Derivative) -> Derivative:
    form = derivative.value_form
    if form.size != 1:
        raise InputError(f"fun returned {form}, but a gradient needs one number; use jacobian.")
    return derivative


class _Derivatives:
    """A function of ``x`` that returns derivatives. Workers that it starts stay until it is closed or deleted."""

    def __init__(
        self, fun: Callable[..., Any], options: Options, result: Callable[[Derivative], Any], name: str
    ) -> None:
        self._fun = fun
        self._options = options
        self._result = result
        self._name = name
        self._stack = ExitStack()
        self._backend: Any = None
        self._has_warned = False
        self.__signature__ = _signature(fun, options)
        check_names(options)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        options: dict[str, Any] = dict(self._options)
        if args:
            options["args"] = args
        if kwargs:
            options["kwargs"] = {**(options.get("kwargs") or {}), **kwargs}
        if self._backend is None:
            self._backend = self._stack.enter_context(
                backend_of(options.get("workers", 0), options.get("address"), options.get("store"))
            )
        options |= {"workers": self._backend, "address": None, "store": None}
        derivative = derive(Request.of(self._fun, x, options), full=False, warn=not self._has_warned)
        self._has_warned |= not derivative.success
        return self._result(derivative)

    def close(self) -> None:
        """End the workers that were started for this function."""
        self._stack.close()
        self._backend = None

    def __enter__(self) -> _Derivatives:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{self._name}({self._fun!r})"


def _signature(fun: Callable[..., Any], options: Options) -> inspect.Signature:
    """What ``fun`` takes besides the options ``args`` and ``kwargs``: optimagic refuses functions that take more."""
    try:
        first, *others = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):  # of a built-in function, or of one without arguments
        first, others = inspect.Parameter("x", inspect.Parameter.POSITIONAL_ONLY), []
    given = options.get("kwargs") or {}
    free = [] if options.get("args") else [one for one in others if one.name not in given]
    return inspect.Signature([first, *free])


def gradient_of(fun: Callable[..., Any], **options: Unpack[Options]) -> Callable[..., Any]:
    """The gradient of ``fun`` as a function of ``x``, such as SciPy's ``minimize`` takes as ``jac``.

    Further arguments of a call are passed on to ``fun``, as SciPy does with ``args``. With ``workers``, they are
    started at the first call and stay for the next ones, until ``close`` is called or a ``with`` block ends. Of the
    calls with entries that are not settled, only the first one warns.

    >>> import numpy as np
    >>> gradient_of(lambda x, a: a * float(x @ x))(np.array([1.0, 2.0]), 10.0).round(6)
    array([20., 40.])
    """
    return _Derivatives(fun, options, lambda derivative: _scalar(derivative).grad, "gradient_of")


def jacobian_of(fun: Callable[..., Any], **options: Unpack[Options]) -> Callable[..., Any]:
    """The Jacobian of ``fun`` as a function of ``x``, such as SciPy's ``least_squares`` takes as ``jac``.

    See ``gradient_of``.
    """
    return _Derivatives(fun, options, lambda derivative: derivative.jac, "jacobian_of")


def value_and_gradient(fun: Callable[..., Any], **options: Unpack[Options]) -> Callable[..., Any]:
    """A function of ``x`` that returns the value and the gradient of ``fun``, as SciPy's ``minimize`` takes with
    ``jac=True``.

    See ``gradient_of``. The value costs no further evaluation.

    >>> import numpy as np
    >>> value_and_gradient(lambda x: float(x @ x))(np.array([1.0, 2.0]))[0]
    5.0
    """

    def both(derivative: Derivative) -> tuple[Any, Any]:
        return derivative.value, _scalar(derivative).grad

    return _Derivatives(fun, options, both, "value_and_gradient")
