"""Checks of a gradient that was derived by hand: entry by entry, or by random directions and bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.checks import checked, choice, optional, real, whole
from distnum.common.errors import InputError
from distnum.differentiation.checks.gradient_check import CheckedEntry, GradientCheck
from distnum.differentiation.checks.hints import hint_of
from distnum.differentiation.deriving import derive
from distnum.differentiation.directions import along
from distnum.differentiation.judgment.precision import round_off
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Options, Request
from distnum.differentiation.rounds import Places, Rounds
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.differentiation.stencils.steps import default_h
from distnum.evaluation.backends import backend_of
from distnum.evaluation.forms import Form

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["check_gradient"]

# The mode "auto" compares every entry if that takes at most this many seconds by its estimate.
_FULL_S = 10.0
# With at most this many entries it is full without looking at the time.
_FEW = 100


def check_gradient(
    fun: Callable[..., Any],
    grad: Any,
    x: Any,
    *,
    mode: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    directions: int = 3,
    seed: int = 0,
    **options: Unpack[Options],
) -> GradientCheck:
    """Compare a gradient that was derived by hand with the numerical one.

    An entry is right if it differs from the finite difference by at most ``atol + rtol * |entry|`` and twice the
    estimated error of the finite difference. At a kink, such as that of ReLU at 0, every value between the slopes on
    the two sides is right.

    Args:
        fun: Function of ``x`` that returns one number.
        grad: Its gradient at ``x``, in the form of ``x``; or a function of ``x`` (and ``args``, ``kwargs``) that
            returns it.
        x: Point at which the gradients are compared.
        mode: ``"full"`` compares every entry, by ``4 n + 1`` evaluations. ``"fast"`` compares along random directions,
            four evaluations each, and finds a wrong entry by bisection, two evaluations a step: it may miss mistakes
            that cancel in all directions, which is unlikely, and finds one wrong entry of several. ``"auto"`` is full
            if that takes a few seconds.
        rtol: Relative tolerance; by default 1e-6 for float64 and 1e-3 for float32.
        atol: Absolute tolerance; by default 0, as every entry has its own estimate of the error.
        directions: Number of random directions in fast mode.
        seed: Seed of the directions.
        **options: As for ``differentiate``; ``scheme`` and ``order`` are central and 4 if not given.

    Raises:
        InputError: As ``differentiate``; or ``grad`` does not have the form of ``x``.

    >>> x = np.array([2.0, 1.0])
    >>> bool(check_gradient(lambda x: float(x[0] ** 2 * x[1]), lambda x: np.array([2 * x[0] * x[1], x[0] ** 2]), x))
    True
    >>> check_gradient(lambda x: float(x[0] ** 2 * x[1]), np.array([4.0, -4.0]), x).worst
    'x[1]'
    """
    mode = checked("mode", mode, choice("auto", "full", "fast"))
    rtol = checked("rtol", rtol, optional(real(at_least=0)))
    atol = checked("atol", atol, optional(real(at_least=0)))
    n_directions = int(checked("directions", directions, whole(1, 1000)))
    given_options: dict[str, Any] = {"scheme": "central", **options}
    if given_options["scheme"] == "central":
        given_options.setdefault("order", 4)
    request = Request.of(fun, x, given_options)
    if request.sparsity is not None:
        raise InputError("sparsity is for differentiate and jacobian; a gradient has one row.")
    given = grad(x, *request.call.args, **request.call.kwargs) if callable(grad) else grad
    gradient = _as_given(request.form, given)
    tolerances = (rtol if rtol is not None else 1e-6 if request.x.dtype == np.float64 else 1e-3, atol or 0.0)
    with backend_of(request.workers, request.address, request.store) as backend:
        request = replace(request, workers=backend)
        if mode == "auto":
            mode = "full" if _full_pays(request) else "fast"
        if mode == "full":
            return _full(request, gradient, *tolerances)
        return _fast(request, gradient, *tolerances, n_directions, seed)


def _as_given(form: Form, given: Any) -> NDArray[np.float64]:
    try:
        return form.flatten(given, "grad").astype(np.float64)
    except InputError as error:
        raise InputError(f"{error} The gradient must have the form of {form.what}.") from None


def _full_pays(request: Request) -> bool:
    """Whether comparing every entry takes at most a few seconds, by the time of one evaluation."""
    n = len(request.indices)
    if n <= _FEW:
        return True
    began = perf_counter()
    Rounds(request, request.workers, keep_table=False).evaluate_all(Places.of_base(request.x))
    evaluations = n * len(request.scheme.offsets)
    return (perf_counter() - began) * evaluations / request.workers.n_workers <= _FULL_S


def _full(request: Request, gradient: NDArray[np.float64], rtol: float, atol: float) -> GradientCheck:
    """Compare every entry."""
    derivative = derive(request, warn=False)  # the verdicts tell the same
    entries = derivative.entries
    if derivative.value_form.size != 1:
        raise InputError(f"fun returned {derivative.value_form}, but a gradient is checked for one number.")
    chosen = request.indices
    assert entries.error is not None
    given, numerical = gradient[chosen], entries.derivative[0, chosen].astype(np.float64)
    error, status = np.nan_to_num(entries.error[0, chosen]), entries.status[0, chosen]
    tolerance = atol + rtol * np.abs(numerical) + 2 * error
    difference = np.abs(given - numerical)
    wrong = ~(difference <= tolerance)
    verdicts = np.where(wrong, "wrong", "ok").astype(object)
    unknown = np.isin(status, (Status.FAILED, Status.TIMEOUT, Status.MISSING, Status.JUMP))
    verdicts[unknown] = "unknown"
    for position in np.flatnonzero(status == Status.KINK).tolist():
        left, right = sorted(entries.slopes[0, int(chosen[position])])
        slack = atol + rtol * max(abs(left), abs(right))
        inside = left - slack <= given[position] <= right + slack
        verdicts[position] = "kink" if inside else "wrong"
    wrong = verdicts == "wrong"
    order = np.argsort(
        -np.where(np.isnan(difference), np.inf, difference / np.maximum(tolerance, 1e-300)), kind="stable"
    )
    order = np.concatenate(
        [order[wrong[order]], order[~wrong[order] & (verdicts[order] != "ok")], order[verdicts[order] == "ok"]]
    )
    n_listed = max(1, int((verdicts != "ok").sum()))
    listed = [
        CheckedEntry(
            request.form.entry_name(int(chosen[position])),
            float(given[position]),
            float(numerical[position]),
            float(tolerance[position]),
            str(verdicts[position]),
            entries.slopes.get((0, int(chosen[position])), (np.nan, np.nan)),
        )
        for position in order[:n_listed].tolist()
    ]
    everywhere = np.zeros(len(gradient), bool)
    everywhere[chosen[wrong]] = True
    hint = hint_of(gradient, entries.derivative[0].astype(np.float64), everywhere, request.form, _sizes(request))
    known = ~np.isnan(numerical)
    norm = max(float(np.linalg.norm(given[known])), float(np.linalg.norm(numerical[known])))
    relative = float(np.linalg.norm((given - numerical)[known])) / norm if norm else 0.0
    n_wrong, n_unknown = int(wrong.sum()), int((verdicts == "unknown").sum())
    message = (
        f"{n_wrong:,} of {len(chosen):,} entries {'is' if n_wrong == 1 else 'are'} wrong"
        if n_wrong
        else f"all {len(chosen) - n_unknown:,} compared entries are right"
    )
    if n_unknown:
        message += f"; {n_unknown:,} could not be compared"
    return _result(
        "full", relative, listed, n_wrong, hint, derivative.n_evals, message + ".", not n_wrong and not n_unknown
    )


def _fast(
    request: Request, gradient: NDArray[np.float64], rtol: float, atol: float, n_directions: int, seed: int
) -> GradientCheck:
    """Compare along random directions; find a wrong entry by bisection."""
    rounds = Rounds(request, request.workers, keep_table=False)
    x, chosen, rng = request.x, request.indices, np.random.default_rng(seed)
    rounds.evaluate_all(Places.of_base(x))
    base = rounds.known_base
    if len(base) != 1:
        raise InputError(f"fun returned {rounds.value_form}, but a gradient is checked for one number.")
    step = float(default_h(SCHEMES["central"], x.dtype))
    sizes = np.maximum(np.abs(x.astype(np.float64)), 1.0)
    worst = 0.0
    for _ in range(n_directions):
        # Each entry is moved by its own step, so that one wrong entry shows however large the others are.
        direction = np.zeros(len(x))
        direction[chosen] = rng.choice([-1.0, 1.0], len(chosen)) * sizes[chosen]

        def difference(
            group: NDArray[np.int64], h: float, direction: NDArray[np.float64] = direction
        ) -> tuple[float, float, float]:
            part = np.zeros(len(x))
            part[group] = direction[group]
            moved = ((x + h * part).astype(x.dtype).astype(np.float64) - (x - h * part).astype(x.dtype)) / (2 * h)
            numerical = float(along(rounds, x, part, h)[0])
            return float(gradient @ moved), numerical, float(np.linalg.norm(gradient[group] * moved[group]))

        given, numerical, size = difference(chosen, step)
        _, wider, _ = difference(chosen, 2 * step)
        eps_f = float(round_off(base, base[None, None], np.zeros((1, 1)), x[:1])[0, 0])
        # Order 2: the difference from twice the step is three times the truncation error. The given sum is rounded too.
        error = 2 * (eps_f / step + abs(wider - numerical) / 3) + np.finfo(np.float64).eps * size * np.sqrt(len(chosen))
        tolerance = atol * np.sqrt(len(chosen)) + rtol * size + error
        worst = max(worst, abs(given - numerical) / max(abs(given), abs(numerical), size, 1e-300))
        if not abs(given - numerical) <= tolerance:
            group = chosen
            while len(group) > 1:
                half = group[: len(group) // 2]
                a, b, part_size = difference(half, step)
                group = half if not abs(a - b) <= rtol * part_size + error / 2 else group[len(group) // 2 :]
            return _found(request, rounds, gradient, int(group[0]), (rtol, atol), worst)
    message = f"{n_directions} random directions agree to {worst:.1e}."
    return _result("fast", worst, [], 0, "", rounds.n_evals, message, True)


def _found(
    request: Request,
    rounds: Rounds,
    gradient: NDArray[np.float64],
    index: int,
    tolerances: tuple[float, float],
    error: float,
) -> GradientCheck:
    """The check that has found one entry, which is compared by itself."""
    single = _full(
        replace(
            request,
            indices=np.array([index]),
            f0=rounds.value_form.view(rounds.known_base) if rounds.value_form else None,
        ),
        gradient,
        *tolerances,
    )
    n_evals = rounds.n_evals + single.n_evals
    if single.ok:
        message = (
            "the gradient differs along a random direction, but the entry that bisection found is right: several small "
            'mistakes, or kinks; compare all entries with mode="full".'
        )
        return _result("fast", error, single.entries, 0, "", n_evals, message, False)
    message = f"{single.worst} is wrong, found by bisection; there may be others."
    return _result("fast", error, single.entries, 1, single.hint, n_evals, message, False)


def _result(
    mode: str, error: float, listed: list[CheckedEntry], n_wrong: int, hint: str, n_evals: int, message: str, ok: bool
) -> GradientCheck:
    first = listed[0] if listed else CheckedEntry("", np.nan, np.nan, np.nan, "ok")
    return GradientCheck(
        ok, mode, error, first.name, first.given, first.numerical, listed, n_wrong, hint, n_evals, message
    )  # fmt: skip


def _sizes(request: Request) -> set[int]:
    """Lengths that occur in the arguments, by which a gradient may be divided or not."""
    arrays = [one for one in (*request.call.args, *request.call.kwargs.values()) if hasattr(one, "shape")]
    shapes = [*request.form.shapes, *(one.shape for one in arrays)]
    return {int(length) for shape in shapes for length in (*shape, int(np.prod(shape)) if shape else 1)}
