"""One gradient of one loss, by distnum and by what else would be installed for it.

    python -m benchmarks.rivals              # prints a table; about two minutes
    python -m benchmarks.rivals --json FILE  # and keeps the figures

The loss is that of a network of 3,760 parameters on a batch of 100 shrunk digits; everybody
gets the same function and float64. Central differences; the step is ``H`` for those who can
be told, and the others choose their own steps. What starts once (Ray, pools of processes,
compiled code) has started before the clock does. BLAS runs one thread in every process.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
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
from distnum.differentiation.black_box import BlackBox
from distnum.differentiation.parameters import ParamsLayout
from distnum.networks.dense import Network
from distnum.networks.propagation.objective import Propagation
from distnum.workers.ray_pool.pool import RayPool

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
    """A rival cannot take part; says why."""


def compare_rivals(repeats: int = 5) -> dict[str, Any]:
    """Seconds and errors of every rival's gradient.

    Args:
        repeats: timed gradients of each.

    Returns:
        ``network``, ``n_params``, ``n_examples``, ``h``; ``n_near_kink``, the parameters whose step of
        ``h`` crosses a kink; and ``rivals``, by name: either ``absent`` with the reason, or
        ``median_s``, ``min_s``, ``max_s`` of a gradient, ``times_distnum``, ``n_processes``, ``steps``
        (``h`` or its own), and the largest error beside backpropagation over its largest entry:
        ``error`` of all parameters, ``error_off_kinks`` of those whose step crosses none.
    """
    network = Network(SIZES)
    params, batch = network.initial_params(), shrunk_digits(N_EXAMPLES)
    setting = _Setting(network, params, batch, NetworkLoss(network, batch))
    exact = backpropagation(network, params, batch)
    near_kink = kinks_within(network, params, batch, H)

    told: dict[str, dict[str, Any]] = {}
    gradients: dict[str, Gradient] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(single_threaded_blas())
        for name, (n_processes, steps, start) in _RIVALS.items():
            try:
                gradients[name] = stack.enter_context(start(setting))
            except _Absent as reason:
                told[name] = {"absent": str(reason)}
                continue
            # Also the warm-up: processes start and code is compiled now.
            error = np.abs(np.asarray(gradients[name]()) - exact) / np.abs(exact).max()
            told[name] = {
                "n_processes": n_processes,
                "steps": steps,
                "error": float(error.max()),
                "error_off_kinks": float(error[~near_kink].max()),
            }
        seconds = interleaved(gradients, repeats, warmup=0)
    for name, measured in seconds.items():
        told[name] |= spread(measured) | {"times_distnum": paired_ratio(measured, seconds[OURS])}
    return {
        "network": str(network),
        "n_params": network.n_params,
        "n_examples": N_EXAMPLES,
        "h": H,
        "n_near_kink": int(near_kink.sum()),
        "rivals": told,
    }


# --- the rivals: each a context that gives a function without arguments -------------------


@contextlib.contextmanager
def _propagation(setting: _Setting) -> Iterator[Gradient]:
    objective = Propagation(setting.network, "central", H)
    yield lambda: propagated(objective, setting.params, setting.batch)


@contextlib.contextmanager
def _black_box(setting: _Setting) -> Iterator[Gradient]:
    yield lambda: distnum.gradient(setting.loss, setting.params, h=H)


@contextlib.contextmanager
def _black_box_on_ray(setting: _Setting) -> Iterator[Gradient]:
    loss = setting.loss
    layout, params = ParamsLayout.of(setting.params)
    objective = BlackBox(lambda params, batch: loss(params), layout, params.size, "central", H)
    with RayPool(objective, _no_batch, N_PROCESSES) as pool:

        def gradient() -> Array:
            pool.plan(objective.expected_costs(None))
            return pool.gradient(1, params).grad

        yield gradient


def _no_batch(step: int) -> None:
    return None


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
        raise _Absent("this SciPy has no workers; 1.16 has")
    # Spawned, not forked: Ray's threads are running in this process.
    with multiprocessing.get_context("spawn").Pool(N_PROCESSES, _limit_blas) as pool:
        yield lambda: differentiate(setting.loss, setting.params, method="3-point", abs_step=H, workers=pool.map)


def _limit_blas() -> None:
    limit = single_threaded_blas()
    limit.__enter__()
    _limits.append(limit)  # it ends with the process


@contextlib.contextmanager
def _jacobi(setting: _Setting) -> Iterator[Gradient]:
    differentiate = _installed("jacobi").jacobi
    # method=0 is central differences. Its steps are shares of each parameter, not H.
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
        # joblib's own pool of processes stays open between calls and gives each one thread of BLAS.
        yield lambda: differentiate(setting.loss, setting.params, **options).derivative

    return start


def _installed(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(module)
    except ImportError:
        raise _Absent("not installed") from None


# Name: processes that compute, steps, how it starts.
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
    # The last: a Ray session may end what was started while it ran, as the pools of others would be.
    "distnum.gradient, 2 on Ray": (2, "h", _black_box_on_ray),
}


# --- the table ---------------------------------------------------------------------------


def print_rivals(result: dict[str, Any]) -> None:
    """Print what ``compare_rivals`` returned, the fastest first."""
    print(
        f"One gradient of {result['network']}, {result['n_params']:,} parameters, batch of {result['n_examples']} "
        f"shrunk digits,\ncentral differences, float64 (median, min - max; error beside backpropagation, over the\n"
        f"largest entry; {result['n_near_kink']} parameters have a kink of ReLU within h = {result['h']:g})\n"
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
    print("\n  A loss of a twentieth of a millisecond hardly pays for sending it parameters in another process.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="gradients of each (default: 5)")
    options = parser.parse_args()
    result = compare_rivals(options.repeats)
    print_rivals(result)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
