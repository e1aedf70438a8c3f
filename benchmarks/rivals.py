"""One gradient of the same loss by distnum and by other libraries.

    python -m benchmarks.rivals    # about two minutes

The loss is that of a network with 3,760 parameters on a batch of 100 shrunk digits. All libraries get the
same function and float64, and use central differences, with step ``H`` where a step can be given. Ray,
process pools and compiled code are started before the clock. BLAS uses one thread in every process.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distnum
from benchmarks.networks import NetworkLoss, backpropagation, kinks_within, propagated, shrunk_digits
from benchmarks.timing import interleaved, paired_ratio, spread
from distnum.common.machine import single_threaded_blas
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation

__all__ = ["compare_rivals", "print_rivals"]

Array = NDArray[np.floating]
Gradient = Callable[[], Array]

H = 1e-4
SIZES = (64, 50, 10)
N_EXAMPLES = 100
N_PROCESSES = 2
OURS = "distnum, propagation"

_limits: list[Any] = []


@dataclass(frozen=True)
class _Setting:
    network: Network
    params: Array
    batch: Any
    loss: NetworkLoss


class _Absent(Exception):
    """A library cannot take part; the message says why."""


def compare_rivals(repeats: int = 5) -> dict[str, Any]:
    """Measure the time and error of the gradient of every library.

    Args:
        repeats: Number of timed gradients of each.

    Returns:
        ``network``, ``n_params``, ``n_examples``, ``h``; ``n_near_kink``, the number of parameters whose step
        ``h`` crosses a kink; and ``rivals``, by name: either ``absent`` with the reason, or ``median_s``,
        ``min_s``, ``max_s`` of a gradient, ``times_distnum``, ``n_processes``, ``steps`` (``h`` or its own),
        and the largest deviation from backpropagation, relative to its largest entry: ``error`` of all
        parameters, ``error_off_kinks`` of those whose step crosses no kink.
    """
    network = Network(SIZES)
    params, batch = network.initial_params(), shrunk_digits(N_EXAMPLES)
    setting = _Setting(network, params, batch, NetworkLoss(network, batch))
    exact = backpropagation(network, params, batch)
    near_kink = kinks_within(network, params, batch, H)

    rows: dict[str, dict[str, Any]] = {}
    gradients: dict[str, Gradient] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(single_threaded_blas())
        for name, (n_processes, steps, start) in _RIVALS.items():
            try:
                gradients[name] = stack.enter_context(start(setting))
            except _Absent as reason:
                rows[name] = {"absent": str(reason)}
                continue
            # The first call is the warm-up: it starts processes and compiles code.
            error = np.abs(np.asarray(gradients[name]()) - exact) / np.abs(exact).max()
            rows[name] = {
                "n_processes": n_processes,
                "steps": steps,
                "error": float(error.max()),
                "error_off_kinks": float(error[~near_kink].max()),
            }
        seconds = interleaved(gradients, repeats, warmup=0)
    for name, measured in seconds.items():
        rows[name] |= spread(measured) | {"times_distnum": paired_ratio(measured, seconds[OURS])}
    return {
        "network": str(network),
        "n_params": network.n_params,
        "n_examples": N_EXAMPLES,
        "h": H,
        "n_near_kink": int(near_kink.sum()),
        "rivals": rows,
    }


# --- the rivals: contexts that yield a function without arguments -------------------


@contextlib.contextmanager
def _propagation(setting: _Setting) -> Iterator[Gradient]:
    objective = Propagation(setting.network, "central", H)
    yield lambda: propagated(objective, setting.params, setting.batch)


@contextlib.contextmanager
def _black_box(setting: _Setting) -> Iterator[Gradient]:
    yield lambda: distnum.gradient(setting.loss, setting.params, h=H)


@contextlib.contextmanager
def _black_box_on_ray(setting: _Setting) -> Iterator[Gradient]:
    with distnum.Evaluator(N_PROCESSES) as workers:
        yield lambda: distnum.gradient(setting.loss, setting.params, h=H, workers=workers)


@contextlib.contextmanager
def _article(setting: _Setting) -> Iterator[Gradient]:
    def gradient() -> Array:
        params, grad = setting.params.copy(), np.empty_like(setting.params)
        for index in range(params.size):
            original = params[index]
            params[index] = original + H
            above = setting.loss(params)
            params[index] = original - H
            below = setting.loss(params)
            params[index] = original
            grad[index] = (above - below) / (2 * H)
        return grad

    yield gradient


@contextlib.contextmanager
def _scipy(setting: _Setting) -> Iterator[Gradient]:
    differentiate = _installed("scipy.optimize._numdiff").approx_derivative
    yield lambda: differentiate(setting.loss, setting.params, method="3-point", abs_step=H)


@contextlib.contextmanager
def _scipy_on_processes(setting: _Setting) -> Iterator[Gradient]:
    differentiate = _installed("scipy.optimize._numdiff").approx_derivative
    if "workers" not in inspect.signature(differentiate).parameters:
        raise _Absent("needs SciPy 1.16, which has workers")
    # Spawned, not forked, because Ray's threads run in this process.
    with multiprocessing.get_context("spawn").Pool(N_PROCESSES, _limit_blas) as pool:
        yield lambda: differentiate(setting.loss, setting.params, method="3-point", abs_step=H, workers=pool.map)


def _limit_blas() -> None:
    limit = single_threaded_blas()
    limit.__enter__()
    _limits.append(limit)  # lasts until the process ends


@contextlib.contextmanager
def _jacobi(setting: _Setting) -> Iterator[Gradient]:
    differentiate = _installed("jacobi").jacobi
    # method=0 means central differences; the steps are relative to each parameter, not H.
    yield lambda: differentiate(setting.loss, setting.params, method=0)[0]


@contextlib.contextmanager
def _numdifftools(setting: _Setting) -> Iterator[Gradient]:
    gradient = _installed("numdifftools").Gradient(setting.loss)
    yield lambda: gradient(setting.params)


@contextlib.contextmanager
def _numdifftools_one_step(setting: _Setting) -> Iterator[Gradient]:
    gradient = _installed("numdifftools").Gradient(setting.loss, step=H)
    yield lambda: gradient(setting.params)


def _optimagic(n_cores: int) -> Callable[[_Setting], Any]:
    @contextlib.contextmanager
    def start(setting: _Setting) -> Iterator[Gradient]:
        differentiate = _installed("optimagic").first_derivative
        options = {"method": "central", "step_size": H, "n_cores": n_cores}
        # joblib's process pool stays open between calls and gives each process one BLAS thread.
        yield lambda: differentiate(setting.loss, setting.params, **options).derivative

    return start


def _installed(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(module)
    except ImportError:
        raise _Absent("not installed") from None


# Name: number of processes, steps, context.
_RIVALS: dict[str, tuple[int, str, Callable[[_Setting], Any]]] = {
    OURS: (1, "h", _propagation),
    "distnum.gradient": (1, "h", _black_box),
    "the article's loop": (1, "h", _article),
    "scipy 3-point": (1, "h", _scipy),
    "scipy 3-point, 2 processes": (2, "h", _scipy_on_processes),
    "optimagic": (1, "h", _optimagic(1)),
    "optimagic, 2 processes": (2, "h", _optimagic(2)),
    "numdifftools, one step": (1, "h", _numdifftools_one_step),
    "numdifftools": (1, "its own", _numdifftools),
    "jacobi": (1, "its own", _jacobi),
    # Last, because the end of a Ray session may kill process pools that were started while it ran.
    "distnum.gradient, 2 on Ray": (2, "h", _black_box_on_ray),
}


# --- the table ---------------------------------------------------------------------------


def print_rivals(result: dict[str, Any]) -> None:
    """Print what ``compare_rivals`` returned, the fastest first."""
    print(
        f"One gradient of {result['network']}, {result['n_params']:,} parameters, batch of {result['n_examples']} "
        f"shrunk digits,\ncentral differences, float64 (median, min - max; error relative to the largest entry of\n"
        f"backpropagation; {result['n_near_kink']} parameters have a kink of ReLU within h = {result['h']:g})\n"
    )
    print(f"  {'':<27} {'ms':>9}  {'min - max':>17} {'x distnum':>10} {'steps':>8} {'error':>9} {'off kinks':>9}")
    present = {name: row for name, row in result["rivals"].items() if "absent" not in row}
    for name, row in sorted(present.items(), key=lambda item: item[1]["median_s"]):
        between = f"{row['min_s'] * 1e3:,.1f} - {row['max_s'] * 1e3:,.1f}"
        print(
            f"  {name:<27} {row['median_s'] * 1e3:9,.1f}  {between:>17} {row['times_distnum']:10,.1f} "
            f"{row['steps']:>8} {row['error']:9.1e} {row['error_off_kinks']:9.1e}"
        )
    for name, row in result["rivals"].items():
        if "absent" in row:
            print(f"  {name:<27} {row['absent']}")
    print("\n  Sending parameters to another process takes about as long as this loss, a twentieth of a millisecond.")


if __name__ == "__main__":
    print_rivals(compare_rivals())
