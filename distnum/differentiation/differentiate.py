"""The derivative of a function with errors, statuses and every evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distnum.differentiation.derivative import Derivative
from distnum.differentiation.deriving import derive
from distnum.differentiation.options import Options, Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["differentiate"]


def differentiate(fun: Callable[..., Any], x: Any, **options: Unpack[Options]) -> Derivative:
    """The derivative of ``fun`` at ``x`` by finite differences, with all that is known about it.

    The step of each coordinate checks itself: if the values at the points of the stencil show that it does not fit the
    function (nothing changes beyond rounding, the function bends or oscillates within the step, a value is not finite),
    up to six more points of this coordinate are evaluated, and what cannot be settled keeps its status and is named in
    one warning. Healthy coordinates cost the stencil alone, and ``fun(x)`` once; twice from 100 points
    on, to see whether ``fun`` is random.

    Args:
        fun: Function of ``x`` that returns a number, an array of any shape, or a dict of them, real or complex. It
            must not change its argument. With workers it is sent to other processes.
        x: A number, an array of any shape, or nested dicts, lists and tuples of them; float32, float64 or whole
            numbers.
        scheme: ``"central"`` (default), ``"forward"``, ``"backward"`` or ``"complex"``; also SciPy's names
            ``"3-point"``, ``"2-point"`` and ``"cs"``.
        order: Order of accuracy: 2 (default), 4, 6 or 8 for central; 1 (default) or 2 for forward and backward.
        h: Step: a positive number, or such numbers in the form of ``x``. A step that is given is used as it is, and
            judged all the same. ``"adaptive"`` searches a step for every coordinate. By default ``rel_step * max(|x|,
            x_scale)``.
        rel_step: Relative step; by default ``eps ** (1 / (order + 1))``.
        x_scale: Size below which a coordinate counts as small; by default 1, or the distance of two finite bounds if
            that is smaller.
        bounds: A pair (lower, upper) of numbers, or of numbers in the form of ``x``; or a ``scipy.optimize.Bounds``.
            They are never crossed.
        indices: Coordinates to differentiate: flat indices, a mask, or names. The others are NaN in the result.
        sparsity: Which numbers of ``fun(x)`` may depend on which of ``x``: an array that is not zero there, or a
            sparse matrix of SciPy with such entries, of shape ``(fun(x).size, x.size)``; or a pair of it and a group
            number for each coordinate. Coordinates that share no row are moved together, so that a tridiagonal Jacobian
            costs three times the points of one coordinate. Two more evaluations along a random direction confirm the
            pattern; rows that depend on more coordinates are named in a warning, and get the status ``PATTERN``. The
            results are ``scipy.sparse.csr_array`` of this shape, with the entries of the pattern.
        args, kwargs: Further arguments of ``fun``.
        f0: ``fun(x)``, if it is known.
        noise: Absolute noise of ``fun``: a number, numbers in the form of its value, or ``"estimate"``.
        workers: 0 evaluates in this process; a number, ``"auto"`` or a range such as ``"2:8"`` on Ray workers, which
            are started for this call; an ``Evaluator`` on its workers, which are warm; also a ``concurrent.futures``
            executor, or any function like ``map``.
        address: Address of a Ray cluster for the workers.
        vectorized: Whether ``fun`` takes many points at once, as an array of shape ``(k, *x.shape)``, and returns
            ``k`` values.
        on_error: What to do where ``fun`` raises an exception, ends its process, takes too long or is not finite:
            ``"raise"`` (default), ``"one-sided"`` (evaluate nearer points, then those on the other side), or ``"nan"``.
        retries: How often a failed evaluation is tried again.
        timeout: Seconds after which an evaluation is ended, with its process and what that has started.
        store: Folder or URI where evaluations are kept and found again.
        workdir: Folder of which each worker gets a copy to work in, or a ``WorkFolders``.
        deadline: Seconds after which the function returns what there is.
        progress: Whether progress is shown; by default on a terminal, after two seconds.

    Returns:
        The derivative.

    Raises:
        InputError: An argument cannot be used.
        NotFiniteError: ``fun`` is not finite at ``x``; or, with ``on_error="raise"``, at points that a search has not
            avoided.
        Exception: With ``on_error="raise"``, the function's own.

    Warns:
        DerivativeWarning: Some entries are not settled.

    >>> import numpy as np
    >>> d = differentiate(lambda x: x[0] ** 2 + abs(x[1]), np.array([2.0, 1.0]))
    >>> d.grad.round(6), d.status, d.n_evals
    (array([4., 1.]), array([0, 0], dtype=uint8), 5)
    """
    return derive(Request.of(fun, x, options))
