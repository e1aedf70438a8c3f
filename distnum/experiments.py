"""Scaling experiments for users: what is measured, kept in a folder, fitted and foretold."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from distnum.checkpoints import params_sha256
from distnum.config import Config
from distnum.errors import InputError, TrainingError
from distnum.facts import commit, machine_facts, n_cores, version_facts
from distnum.kinds import checked, real, whole
from distnum.objectives import BlackBox, LossFunction, Params
from distnum.scaling import Measurement, Place, Setting, Work, measure_scaling, plan_settings, prepare_work
from distnum.scaling_fit import (
    Forecast,
    Network,
    ScalingModel,
    amdahl,
    explained,
    fit_model,
    universal_scalability,
)
from distnum.scaling_folder import ScalingFolder, alone_in
from distnum.scaling_summary import FEW_REPEATS, Summary, coverage, in_turns, summarise
from distnum.simulation import System, simulate
from distnum.uris import is_uri

__all__ = ["ScalingResult", "scale"]


@dataclass(frozen=True)
class ScalingResult:
    """What came of a scaling experiment.

    Attributes:
        measurements: all of them, those of earlier calls in the same folder too.
        summaries: of each setting, by its cores.
        model: of a step's parts; None if it cannot be fitted, and ``no_model`` says why.
        forecasts: for the numbers of workers that were asked for.
        simulated_s: seconds of a step of each of them, played through by the simulator; empty in weak scaling.
        assumptions: of the model and the forecasts.
        laws: Amdahl's and the universal scalability law, fitted to the same steps.
        notes: what is to be known of these measurements.
        folder: where it is kept, or None.
    """

    measurements: list[Measurement] = field(repr=False)
    summaries: list[Summary]
    model: ScalingModel | None = field(repr=False)
    no_model: str
    forecasts: list[Forecast]
    simulated_s: list[float]
    assumptions: list[str] = field(repr=False)
    laws: dict[str, dict[str, float]]
    notes: list[str]
    folder: Path | None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``scaling.json``."""
        found: dict[str, Any] = {
            "summaries": [one.to_dict() for one in self.summaries],
            "laws": self.laws,
            "forecasts": [one.to_dict() for one in self.forecasts],
            "simulated_s": self.simulated_s,
            "assumptions": self.assumptions,
            "notes": self.notes,
        }
        if self.model is None:
            return found | {"no_model": self.no_model}
        bottleneck = self.model.bottleneck()
        found["model"] = {
            "coefficients": explained(self.model.coefficients),
            "fitted_on_workers": list(self.model.measured),
            "threads": self.model.threads,
            "workers_per_node": self.model.workers_per_node,
            "node_is": self.model.node_is,
            "worst_error": self.model.worst_error,
            "bottleneck": None if bottleneck is None else {"workers": bottleneck[0], "part": bottleneck[1]},
        }
        return found

    def plot(self, path: str | Path) -> None:
        """Draw speed-up, efficiency, where a step's time goes, and balance; PNG, SVG or PDF by the file's name."""
        from distnum.plots import plot_scaling

        plot_scaling(self.summaries, self.model, self.measurements[0].mode, Path(path))


def scale(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    workers: Sequence[int] | None = None,
    threads: Sequence[int] = (1,),
    mode: str = "strong",
    steps: int = 20,
    repeats: int = 5,
    warmup: int = 3,
    forecast: Sequence[int] = (),
    workers_per_node: int | None = None,
    gbit_per_s: float = 10.0,
    data: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    on_start: Callable[[int, int], None] | None = None,
    on_measured: Callable[[Measurement, int], None] | None = None,
    **options: Any,
) -> ScalingResult:
    """Measure how the steps of a training scale with workers and threads, and foretell how they would go on.

    Args:
        loss, params, data, config: what is trained, as for ``distnum.train``.
        workers: numbers of workers to measure; by default 1, 2, 4, ... up to this machine's cores.
        threads: of each worker, to measure with each of them.
        mode: ``"strong"``: the same steps for all; ``"weak"``: the batch grows with the workers.
        steps: of one measurement, after ``warmup`` others.
        repeats: measurements of each setting; they take turns.
        forecast: numbers of workers to foretell.
        workers_per_node: so many on each node of a forecast; by default the most that were measured.
        gbit_per_s: of the network that a forecast assumes between nodes, if just one is measured.
        out: a folder to keep the measurements in; those that are there already count too, and must be of
            the same job, machine, versions, ``steps`` and ``warmup``.
        resume: measure only what is missing there of so many repeats, or of those that were begun.
        on_start: called when the workers are there, with their nodes and how many measurements will be made.
        on_measured: called with each measurement and how many are to follow.
        **options: fields of ``Config``.

    Raises:
        InputError: something given cannot be used, or cannot be measured.
        TrainingError: workers are lost again and again, nodes go, or the folder cannot be written.
    """
    settings = plan_settings(default_workers() if workers is None else _several(workers), _several(threads))
    steps = checked("steps", steps, whole(1, 1_000_000))
    repeats = checked("repeats", repeats, whole(1, 10_000))
    warmup = checked("warmup", warmup, whole(0, 1_000_000))
    if workers_per_node is not None:
        workers_per_node = checked("workers_per_node", workers_per_node, whole(1, 1_000_000))
    gbit_per_s = checked("gbit_per_s", gbit_per_s, real(above=0))
    forecast = [checked("forecast", number, whole(1, 1_000_000)) for number in _several(forecast)]
    if resume and out is None:
        raise InputError("resume is True, but out is not given; it must be the folder of the measurements.")
    if out == "" or is_uri(out):
        raise InputError(f"out is {out!r}; an experiment is kept in a folder, not at a URI.")
    work = prepare_work(loss, params, data, config, options, settings, mode)
    about = version_facts() | {name: str(value) for name, value in machine_facts().items()} | {"commit": commit()}
    with alone_in(Path(out)) if out is not None else nullcontext():
        identity = _identity(work) | {"steps": steps, "warmup": warmup} | about
        folder = ScalingFolder(Path(out), identity) if out is not None else None
        measurements = folder.measurements if folder is not None else []
        counts = {setting.workers for setting in settings} | {one.workers for one in measurements}
        if forecast and len(counts) < 2:
            raise InputError(
                f"forecast needs at least 2 numbers of workers to be measured, but workers is {min(counts)} alone."
            )
        missing = _missing(measurements, settings, repeats, resume)
        if missing:

            def started(place: Place) -> None:
                if folder is not None:
                    folder.check_place({"asked_over": place.asked_over, "node_cpus": place.node_cpus})
                if on_start is not None:
                    on_start(place.n_nodes, len(missing))

            for number, one in enumerate(measure_scaling(work, missing, steps, warmup, started), start=1):
                _check_nodes(measurements, one)
                measurements.append(one)
                if folder is not None:
                    folder.add(one, about)
                if on_measured is not None:
                    on_measured(one, len(missing) - number)
        result = _result(work, measurements, forecast, workers_per_node, Network(gbit_per_s), folder)
        if folder is not None:
            folder.write(result.to_dict())
        return result


def _several(numbers: int | Sequence[int]) -> Sequence[int]:
    """Numbers, also where one stands alone."""
    return numbers if isinstance(numbers, (Sequence, np.ndarray)) else [numbers]


def default_workers() -> list[int]:
    """1, 2, 4, ... up to the cores of this machine, and two at least."""
    cores = max(2, n_cores())
    return [2**i for i in range(cores.bit_length()) if 2**i <= cores]


def _identity(work: Work) -> dict[str, Any]:
    """What must be the same of the work where measurements are held beside each other."""
    job, objective = work.job, work.job.objective
    found = {name: value for name, value in job.deciding().items() if name != "steps"}
    found |= {"mode": work.mode, "n_params": objective.n_params, "initial_sha256": params_sha256(job.initial.params)}
    if job.network is None and isinstance(objective, BlackBox):
        found |= _function_facts(objective.loss)
    return found


def _function_facts(loss: LossFunction) -> dict[str, Any]:
    """Which function it is, and of which source; nothing of a source that cannot be had."""
    function: Any = loss
    bound = []
    while isinstance(function, partial):
        bound.append((function.args, function.keywords))
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    found = {"function": f"{named.__module__}.{named.__qualname__}"}
    if bound:  # as far as it can be told without the places in memory
        found["arguments_sha256"] = sha256(re.sub(r" at 0x\w+", "", repr(bound)).encode()).hexdigest()
    try:
        return found | {"source_sha256": sha256(inspect.getsource(named).encode()).hexdigest()}
    except (OSError, TypeError):
        return found


def _check_nodes(before: Sequence[Measurement], one: Measurement) -> None:
    """Refuse to hold beside each other what was measured on other nodes.

    Raises:
        TrainingError: a node has gone or come.
    """
    for other in before:
        if other.setting == one.setting and (other.nodes, other.cores) != (one.nodes, one.cores):
            there, here = (f"{m.nodes} node{'s'[: m.nodes > 1]} with {m.cores} cores" for m in (other, one))
            raise TrainingError(
                f"The cluster has changed: what was measured with workers = {one.setting} was on {there}, and is on "
                f"{here} now. Measure all again in another folder, as both together would make no curve."
            )


def _missing(
    measurements: Sequence[Measurement], settings: Sequence[Setting], repeats: int, resume: bool
) -> list[tuple[int, Setting]]:
    """What to measure: repeat by repeat, the settings in turns."""
    there = {(one.repeat, one.setting) for one in measurements}
    done = max((one.repeat for one in measurements), default=0)
    # What was begun is finished, also where it was added to an experiment.
    numbers = range(1, max(done, repeats) + 1) if resume else range(done + 1, done + repeats + 1)
    return [(number, setting) for number in numbers for setting in settings if (number, setting) not in there]


def _result(
    work: Work,
    measurements: list[Measurement],
    forecast: Sequence[int],
    workers_per_node: int | None,
    network: Network,
    folder: ScalingFolder | None,
) -> ScalingResult:
    objective = work.job.objective
    n_bytes = objective.n_params * work.job.initial.params.itemsize
    summaries = summarise(measurements)
    model, why = None, ""
    try:
        balance = cache(work.planned_balance)  # of so many workers a plan may take a tenth of a second
        model = fit_model(measurements, balance, n_bytes, network, workers_per_node=workers_per_node)
    except InputError as error:
        why = str(error)
    laws = {}
    honest = [one for one in summaries if not one.oversubscribed]
    # Fewer settings than a law has unknowns, or as many, say nothing of it.
    n_cores_measured = len({one.setting.cores for one in honest})
    if work.mode == "strong" and n_cores_measured > 2:
        laws["amdahl"] = amdahl(honest)
    if work.mode == "strong" and n_cores_measured > 3:
        laws["universal scalability"] = universal_scalability(honest)
    laws = {name: law for name, law in laws.items() if np.isfinite(list(law.values())).all()}
    simulated: list[float] = []
    if model is not None and not model.weak:
        system = System.of(model, work.costs, objective.groups)
        simulated = [float(np.median(simulate(system, int(k)))) for k in forecast]
    return ScalingResult(
        measurements,
        summaries,
        model,
        why,
        [] if model is None else [model.forecast(int(k)) for k in forecast],
        simulated,
        [] if model is None else _assumptions(model, work, network, measurements[0].asked_over),
        laws,
        _notes(work, measurements),
        folder.path if folder is not None else None,
    )


def _assumptions(model: ScalingModel, work: Work, network: Network, asked_over: str) -> list[str]:
    """What a forecast takes for granted."""
    found = [
        f"{model.workers_per_node} workers on a node, each with cores of its own as fast as those measured",
        f"the {work.n_tiles:,} tiles that the parameters are cut into are shared as distnum shares them",
        "asking, gathering and planning grow with the workers as far as was measured "
        f"({', '.join(map(str, model.measured))})",
    ]
    over = f"each further node gets the parameters from the driver over {network.gbit_per_s:g} Gbit/s"
    if model.n_nodes == 1:
        found.append(f"{over}, and answers come back over that, as just one node was measured")
        if asked_over == "sockets":
            found.append("workers there are asked as here, over sockets; calls of Ray, as on a cluster, take longer")
    elif model.node_is == "assumed":
        found.append(f"{over}, as too few numbers of nodes were measured to tell")
    elif model.node_is == "undivided":
        found.append(
            "what a node takes and what its workers take could not be told apart, as all nodes had as many workers; "
            "with another number on a node the forecast is uncertain"
        )
    return found


def _notes(work: Work, measurements: Sequence[Measurement]) -> list[str]:
    """What a reader of the numbers would want to be told."""
    found = []
    fewest = min(Counter(one.setting for one in measurements).values())
    if fewest == 1:
        found.append("what was measured once has no interval; measure with more repeats")
    elif fewest <= FEW_REPEATS:
        found.append(
            f"an interval of {fewest} repeats is from the least to the greatest of them, which holds the true median "
            f"in {100 * coverage(fewest):.0f} % of cases"
        )
    if not in_turns(measurements):
        found.append(
            "not all settings were measured in turns, so that a drift of the machine may be in what they are beside "
            "each other; to be sure, measure all of them in another folder"
        )
    # In weak scaling each number of workers has batches of its own.
    ends: dict[int, set[str]] = {}
    for one in measurements:
        ends.setdefault(one.workers if work.mode == "weak" else 0, set()).add(one.params_sha256)
    if any(len(same) > 1 for same in ends.values()):
        why = "the function gives other numbers for the same parameters, or was changed"
        if work.job.network is not None:
            why = "processors or libraries of the workers round differently"
        found.append(f"the same steps did not end at the same parameters in all measurements: {why}")
    return found
