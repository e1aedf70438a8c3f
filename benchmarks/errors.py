"""How honest the estimated errors of derivatives are: coverage, and estimated error relative to the true one.

The functions, and most of their derivatives, are those of other packages: numdifftools' example functions and the
problems of numericalderivative with their derivatives; SciPy's ``rosen``; and the least-squares problems of Moré and
Wild in optimagic, whose derivatives are computed here with the complex step. To each value is added normal noise, whose
standard deviation, relative to the value at the point, is given to ``differentiate``; in a third table it is not.

Constants of the estimates were chosen by every other function; the first table is of the other half, the second of all.

    pip install -e '.[bench]' numericalderivative
    python -m benchmarks errors
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distnum

__all__ = ["NOISES", "WAYS", "Case", "all_cases", "compare_errors", "measure_errors", "print_errors"]

NOISES = (0.0, 1e-9, 1e-6, 1e-3)
"""Standard deviations of the noise, relative to the value."""

WAYS: dict[str, dict[str, Any]] = {
    "order 2": {},
    "order 4": {"order": 4},
    "order 6": {"order": 6},
    "adaptive": {"h": "adaptive"},
}
"""Options of ``differentiate``."""
_UNSTATED = {"forward": {"scheme": "forward"}, **WAYS}

# So many entries of a function are counted: a large Jacobian should not count for more than all else.
_MOST_ENTRIES = 100


Table = dict[str, dict[str, dict[str, float]]]
"""Figures by way and noise."""


@dataclass(frozen=True)
class Case:
    """A function at a point, with its derivative there.

    Attributes:
        name: Name of the function and its source.
        function: Function of ``x``.
        x: The point, shape ``(n,)``.
        derivative: Its derivative, shape ``(m, n)``.
    """

    name: str
    function: Callable[[NDArray[np.float64]], Any]
    x: NDArray[np.float64]
    derivative: NDArray[np.float64]


def all_cases() -> list[Case]:
    """All functions, in a fixed order."""
    return [*_numdifftools(), *_numericalderivative(), *_scipy(), *_optimagic()]


def _numdifftools() -> list[Case]:
    from numdifftools.example_functions import function_names, get_function

    cases = []
    for name in function_names:
        function, derivative = get_function(name, n=1)
        for x in (0.1, 0.6):
            exact = np.array([[float(derivative(x))]])
            cases.append(
                Case(f"numdifftools {name} at {x}", lambda x, f=function: float(f(x[0])), np.array([x]), exact)
            )
    return cases


def _numericalderivative() -> list[Case]:
    import numericalderivative

    cases = []
    for name in sorted(vars(numericalderivative)):
        if name.endswith("Problem") or name[:-1].endswith("Problem"):
            made = getattr(numericalderivative, name)
            if made is numericalderivative.DerivativeBenchmarkProblem:
                continue
            problem = made()
            function, x = problem.get_function(), float(problem.get_x())
            exact = np.array([[float(problem.get_first_derivative()(x))]])
            cases.append(
                Case(f"numericalderivative {name}", lambda x, f=function: float(f(x[0])), np.array([x]), exact)
            )
    return cases


def _scipy() -> list[Case]:
    from scipy.optimize import rosen, rosen_der

    rng = np.random.default_rng(0)
    points = [np.array([-1.2, 1.0]), *(rng.uniform(-2, 2, n) for n in (2, 5, 10, 20))]
    return [Case(f"scipy rosen {len(x)}", lambda x: float(rosen(x)), x, rosen_der(x)[None]) for x in points]


def _optimagic() -> list[Case]:
    from optimagic.benchmarking import more_wild

    cases = []
    for name, problem in more_wild.MORE_WILD_PROBLEMS.items():
        function, x = problem["fun"], np.asarray(problem["start_x"], np.float64)
        exact = _complex_step(more_wild, function, x)
        if exact is not None:
            cases.append(Case(f"optimagic {name}", lambda x, f=function: np.atleast_1d(f(x)), x, exact))
    return cases


def _complex_step(
    module: types.ModuleType, function: Callable[..., Any], x: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Derivative by the complex step, shape ``(m, n)``; None where the function does not compute with complex numbers.

    The module's functions fill arrays of zeros, which are made complex for this purpose.
    """

    def complex_array(made: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: made(*args, **(kwargs | {"dtype": complex}))

    numpy = types.SimpleNamespace(**vars(np))
    numpy.zeros, numpy.empty, numpy.ones = (complex_array(made) for made in (np.zeros, np.empty, np.ones))
    columns = []
    plain, module.np = module.np, numpy  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            for index in range(len(x)):
                moved = x.astype(complex)
                moved[index] += 1e-100j
                columns.append(np.atleast_1d(function(moved)).imag / 1e-100)
    except (TypeError, np.exceptions.ComplexWarning):
        return None
    finally:
        module.np = plain  # type: ignore[attr-defined]
    exact = np.stack(columns, axis=1)
    return exact if np.isfinite(exact).all() else None


def compare_errors() -> dict[str, Table]:
    """The tables by their titles."""
    return {
        "the half of the functions that was not used to choose constants": measure_errors(),
        "all functions": measure_errors(all_cases()),
        "all functions, noise not stated": measure_errors(all_cases(), ways=_UNSTATED, is_stated=False),
    }


def measure_errors(
    cases: list[Case] | None = None, repeats: int = 3, ways: dict[str, dict[str, Any]] = WAYS, is_stated: bool = True
) -> Table:
    """Coverage and ratios by way and noise.

    Args:
        cases: The functions; by default those with which no constants were chosen.
        repeats: Number of samples of the noise.
        ways: Options of ``differentiate``, by name.
        is_stated: Whether ``differentiate`` is told the noise.

    Returns:
        By way and noise: ``entries`` with status OK, the ``share`` of all entries that they are, ``coverage`` (share of
        them whose true error is at most the estimate) and ``ratio`` (median of estimate / true error).
    """
    cases = all_cases()[1::2] if cases is None else cases
    table: Table = {}
    for way, options in ways.items():
        table[way] = {}
        for noise in NOISES:
            seeds = range(repeats if noise else 1)
            found = [_entries(case, noise, seed, options, is_stated) for case in cases for seed in seeds]
            error, estimate, ok, evaluations, ideal = (np.concatenate(parts) for parts in zip(*found, strict=True))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = estimate[ok] / error[ok]
            table[way][f"{noise:g}"] = {
                "functions": len(cases),
                "entries": int(ok.sum()),
                "share": float(ok.mean()),
                "coverage": float((error[ok] <= estimate[ok]).mean()),
                "ratio": float(np.nanmedian(ratio)),
                "evaluations": float(evaluations.sum() / ideal.sum()),
            }
    return table


def _entries(case: Case, noise: float, seed: int, options: dict[str, Any], is_stated: bool) -> tuple[NDArray[Any], ...]:
    """True and estimated errors, whether they are OK; numbers of evaluations, and of those of the stencil."""
    rng = np.random.default_rng(seed)
    size = np.abs(np.atleast_1d(case.function(case.x)))
    level = noise * np.where(size > 0, size, size.max() or 1.0)
    scalar = np.ndim(case.function(case.x)) == 0

    def noisy(x: NDArray[np.float64]) -> Any:
        normal = rng.standard_normal(len(level)) * level
        return case.function(x) + (float(normal[0]) if scalar else normal)

    given = {"noise": float(level[0]) if scalar else level} if noise and is_stated else {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = distnum.differentiate(noisy if noise else case.function, case.x, **given, **options)
    found, estimate, status = (
        np.reshape(part, case.derivative.shape) for part in (result.jac, result.error, result.status)
    )
    # The reference and the difference itself are rounded, too.
    error = np.abs(found - case.derivative) - 2 * np.finfo(np.float64).eps * np.abs(case.derivative)
    plain = int(options.get("order", 1 if "scheme" in options else 2)) * len(case.x) + 1
    chosen = rng.permutation(error.size)[:_MOST_ENTRIES]
    entries = (part.ravel()[chosen] for part in (np.maximum(error, 0), estimate, status == distnum.Status.OK))
    return *entries, np.array([result.n_evals]), np.array([plain])


def print_errors(tables: dict[str, Table]) -> None:
    """Print the tables of ``compare_errors``."""
    print(
        "Estimated errors of derivatives, entries with status OK: for order 4 and adaptive steps at least 95 % should"
    )
    print(
        "cover the true error, with a median ratio of at most 30. Evaluations are relative to the stencil and x itself."
    )
    for title, table in tables.items():
        functions = int(next(iter(next(iter(table.values())).values()))["functions"])
        print(f"{title} ({functions})")
        print(
            f"{'':10} {'noise':>7} {'entries':>8} {'OK':>7} {'covered':>8} {'estimate / error':>17} {'evaluations':>12}"
        )
        for way, by_noise in table.items():
            for noise, row in by_noise.items():
                print(
                    f"{way:10} {noise:>7} {int(row['entries']):>8,} {row['share']:>7.1%} {row['coverage']:>8.1%} "
                    f"{row['ratio']:>17.1f} {row['evaluations']:>12.2f}"
                )
