"""The options of a derivative, checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.checks import checked, choice, optional, real, whole
from distnum.common.errors import InputError
from distnum.differentiation.sparse.sparsity import Sparsity
from distnum.differentiation.stencils.schemes import Scheme, get_scheme
from distnum.evaluation.backends import Workers
from distnum.evaluation.call import FunctionCall, check_takes
from distnum.evaluation.forms import Form
from distnum.evaluation.outcomes import Limits
from distnum.evaluation.programs.folders import WorkFolders
from distnum.evaluation.programs.in_folder import InFolder

__all__ = ["Options", "Request", "check_names"]


class Options(TypedDict, total=False):
    """Options of ``differentiate`` and its relatives; see there for their meaning."""

    scheme: str
    order: int | None
    h: Any
    rel_step: Any
    x_scale: Any
    bounds: Any
    indices: Any
    sparsity: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None
    f0: Any
    noise: Any
    workers: Workers
    address: str | None
    vectorized: bool
    on_error: str
    retries: int
    timeout: float | None
    store: Any
    workdir: Any
    deadline: float | None
    progress: bool | None


@dataclass(frozen=True)
class Request:
    """What is to be differentiated, and how.

    Attributes:
        call: The function.
        x: The point, flat, shape ``(n,)``, float32 or float64.
        scheme: The finite-difference scheme.
        h: Absolute steps, a number or shape ``(n,)``; None for default steps, ``"adaptive"`` to search every step.
        rel_step, x_scale: Relative steps and sizes of the parameters, numbers or shape ``(n,)``; None for the defaults.
        lower, upper: Bounds, shape ``(n,)``, infinite where there are none; None without bounds.
        indices: Coordinates to differentiate, shape ``(c,)``.
        sparsity: Which outputs may depend on which coordinates; None if all may on all.
        f0: Value of the function at ``x``, in the user's form; None if it is to be evaluated.
        noise: Absolute noise of the function: a number, an array or dict in the form of its value, ``"estimate"``, or
            None.
        limits: What an evaluation may cost.
        on_error: ``"raise"``, ``"one-sided"`` or ``"nan"``.
        deadline: Seconds after which no more results are waited for; None for no limit.
        progress: Whether progress is shown; None shows it on a terminal after two seconds.
        workers, address, store: Who evaluates, and where evaluations are kept.
        folders: Working folders in which the function is called; None for the current directory.
        advises: Whether a better step is searched where a step that is given does not fit.
    """

    call: FunctionCall
    x: Array
    scheme: Scheme
    h: Any
    rel_step: Any
    x_scale: Any
    lower: Array | None
    upper: Array | None
    indices: NDArray[np.int64]
    sparsity: Sparsity | None
    f0: Any
    noise: Any
    limits: Limits
    on_error: str
    deadline: float | None
    progress: bool | None
    workers: Workers
    address: str | None
    store: Any
    folders: WorkFolders | None
    advises: bool = True

    @property
    def form(self) -> Form:
        """Form of the function's argument."""
        return self.call.form

    @property
    def may_search(self) -> bool:
        """Whether the steps may be changed: no number was given as ``h``."""
        return self.h is None or isinstance(self.h, str)

    @property
    def n_evaluations(self) -> int:
        """Number of evaluations if no coordinate is searched and no value is checked by another one."""
        k = len(self.scheme.offsets)
        n = len(self.indices) * k if self.sparsity is None else self.sparsity.n_points(self.indices, k)
        return n + (self.f0 is None)

    @classmethod
    def of(
        cls,
        fun: Callable[..., Any],
        x: Any,
        options: Mapping[str, Any],
        takes: str = "fun",
        what: str = "x",
        batch_at: Callable[[int], Any] | None = None,
    ) -> Request:
        """The request of a call such as ``differentiate(fun, x, **options)``.

        Args:
            fun, x, options: As for ``differentiate``.
            takes, what: Names of the function and of its first argument, for messages.
            batch_at: Returns the batch of a step, the second argument of ``fun``; None if there is none.

        Raises:
            InputError: An argument cannot be used.
        """
        check_names(options)
        if not callable(fun):
            raise InputError(f"{takes} is {fun!r:.60}; it must be a function.")
        form, flat = Form.of(x, what)
        folders = WorkFolders.of(options.get("workdir"))
        args = options.get("args", ())
        args = args if isinstance(args, tuple) else (args,)
        kwargs = options.get("kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise InputError(f"kwargs is {kwargs!r:.60}; it must be a dict of further arguments by name.")
        batch = () if batch_at is None else ("batch",)
        check_takes(fun, takes, (form.what, *batch, *(f"args[{number}]" for number in range(len(args)))), kwargs)
        vectorized = bool(options.get("vectorized", False))
        if vectorized and (len(form.shapes) != 1 or form.scalars[0] or form.names[0] != what):
            raise InputError(
                f"vectorized is True, but {what} is not one array; a vectorized function takes a stack of arrays."
            )
        scheme = get_scheme(options.get("scheme", "central"), options.get("order"))
        h = options.get("h")
        if h is not None and not (isinstance(h, str) and h == "adaptive"):
            if isinstance(h, str):
                raise InputError(
                    f"h is {h!r}; it must be a positive number, numbers in the form of x, 'adaptive' or None."
                )
            h = _like(form, h, "h")
        lower, upper = _within(flat, *_bounds(form, options.get("bounds")))
        on_error = checked("on_error", options.get("on_error", "raise"), choice("raise", "one-sided", "nan"))
        timeout = checked("timeout", options.get("timeout"), optional(real(above=0)))
        retries = checked("retries", options.get("retries", 0), whole(0, 1000))
        return cls(
            call=FunctionCall(
                fun if folders is None else InFolder(fun, folders), form, args, kwargs, vectorized, batch_at
            ),
            x=flat,
            scheme=scheme,
            h=h,
            rel_step=None if options.get("rel_step") is None else _like(form, options["rel_step"], "rel_step"),
            x_scale=None if options.get("x_scale") is None else _like(form, options["x_scale"], "x_scale"),
            lower=lower,
            upper=upper,
            indices=form.indices(options.get("indices")),
            sparsity=Sparsity.of(options.get("sparsity"), form),
            f0=options.get("f0"),
            noise=options.get("noise"),
            limits=Limits(timeout, retries, on_error == "raise"),
            on_error=on_error,
            deadline=checked("deadline", options.get("deadline"), optional(real(above=0))),
            progress=_progress(options.get("progress")),
            workers=options.get("workers", 0),
            address=options.get("address"),
            store=options.get("store"),
            folders=folders,
        )


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse unknown options.

    Raises:
        InputError: The message names the option and the one that was probably meant.
    """
    for name in options:
        if name not in Options.__annotations__:
            near = difflib.get_close_matches(name, Options.__annotations__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(Options.__annotations__)}."
            raise InputError(f"there is no option {name!r}{hint}")


def _progress(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"progress is {value!r:.60}; it must be True, False or None.")
    return value


def _like(form: Form, value: Any, name: str) -> Any:
    """A positive number, or positive numbers in the form of x as a flat array."""
    flat = form.flatten(value, name, broadcast=True)
    if not (np.isfinite(flat).all() and (flat > 0).all()):
        wrong = int(np.flatnonzero(~(np.isfinite(flat) & (flat > 0)))[0])
        raise InputError(f"{name} is {flat[wrong]:g} for {form.entry_name(wrong)}; it must be positive and finite.")
    return flat


def _within(x: Array, lower: Array | None, upper: Array | None) -> tuple[Array | None, Array | None]:
    """Bounds that are not crossed when a point is rounded to the dtype of ``x``."""
    if x.dtype != np.float32 or lower is None or upper is None:
        return lower, upper
    with np.errstate(over="ignore"):
        low, high = lower.astype(np.float32), upper.astype(np.float32)
        low = np.where(low < lower, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > upper, np.nextafter(high, np.float32(-np.inf)), high)
    return low.astype(np.float64), high.astype(np.float64)


def _bounds(form: Form, bounds: Any) -> tuple[Array | None, Array | None]:
    """Lower and upper bounds as flat arrays."""
    if bounds is None:
        return None, None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):  # scipy.optimize.Bounds
        bounds = (bounds.lb, bounds.ub)
        bounds = tuple(side.item() if np.shape(side) == (1,) and form.size != 1 else side for side in bounds)
    pairs = (
        isinstance(bounds, list) and bounds and all(isinstance(one, (tuple, list)) and len(one) == 2 for one in bounds)
    )
    if pairs or not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise InputError(
            f"bounds is {bounds!r:.60}; it must be a pair (lower, upper) of numbers or of numbers in the form of x, or "
            "a scipy.optimize.Bounds. Pairs for each coordinate are not taken."
        )
    lower = form.flatten(-np.inf if bounds[0] is None else bounds[0], "lower bounds", broadcast=True).real
    upper = form.flatten(np.inf if bounds[1] is None else bounds[1], "upper bounds", broadcast=True).real
    for side in (lower, upper):
        if np.isnan(side).any():
            raise InputError(f"bounds hold NaN for {form.entry_name(int(np.isnan(side).argmax()))}.")
    return lower, upper
