"""Scaling experiments for users: what is measured, kept in a folder, fitted and foretold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.checks import checked, real, whole
from distnum.common.errors import InputError
from distnum.common.machine import git_commit, machine_facts, n_cores, version_facts
from distnum.differentiation.black_box import LossFunction
from distnum.differentiation.parameters import Params
from distnum.scaling.fit import amdahl, fit_model, universal_scalability
from distnum.scaling.folder import ScalingFolder
from distnum.scaling.identity import check_nodes, measured_identity, missing_measurements
from distnum.scaling.measure import MeasuredJob, measure_scaling, plan_settings, prepare_measured_job
from distnum.scaling.measurement import ClusterNodes, Measurement
from distnum.scaling.model import Link, ScalingModel
from distnum.scaling.result import ScalingResult
from distnum.scaling.simulation import System, simulate
from distnum.scaling.summary import FEW_REPEATS, coverage, in_turns, summarise
from distnum.storage.files import alone_in
from distnum.storage.uris import is_uri
from distnum.training.config import Config

__all__ = ["scale"]


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
    work = prepare_measured_job(loss, params, data, config, options, settings, mode)
    about = version_facts() | {name: str(value) for name, value in machine_facts().items()} | {"commit": git_commit()}
    with alone_in(Path(out)) if out is not None else nullcontext():
        identity = measured_identity(work) | {"steps": steps, "warmup": warmup} | about
        folder = ScalingFolder(Path(out), identity) if out is not None else None
        measurements = folder.measurements if folder is not None else []
        counts = {setting.workers for setting in settings} | {one.workers for one in measurements}
        if forecast and len(counts) < 2:
            raise InputError(
                f"forecast needs at least 2 numbers of workers to be measured, but workers is {min(counts)} alone."
            )
        missing = missing_measurements(measurements, settings, repeats, resume)
        if missing:

            def started(place: ClusterNodes) -> None:
                if folder is not None:
                    folder.check_place({"asked_over": place.asked_over, "node_cpus": place.node_cpus})
                if on_start is not None:
                    on_start(place.n_nodes, len(missing))

            for number, one in enumerate(measure_scaling(work, missing, steps, warmup, started), start=1):
                check_nodes(measurements, one)
                measurements.append(one)
                if folder is not None:
                    folder.add(one, about)
                if on_measured is not None:
                    on_measured(one, len(missing) - number)
        result = _result(work, measurements, forecast, workers_per_node, Link(gbit_per_s), folder)
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


def _result(
    work: MeasuredJob,
    measurements: list[Measurement],
    forecast: Sequence[int],
    workers_per_node: int | None,
    link: Link,
    folder: ScalingFolder | None,
) -> ScalingResult:
    objective = work.job.objective
    n_bytes = objective.n_params * work.job.initial.params.itemsize
    summaries = summarise(measurements)
    model, why = None, ""
    try:
        balance = cache(work.planned_balance)  # of so many workers a plan may take a tenth of a second
        model = fit_model(measurements, balance, n_bytes, link, workers_per_node=workers_per_node)
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
        [] if model is None else _assumptions(model, work, link, measurements[0].asked_over),
        laws,
        _notes(work, measurements),
        folder.path if folder is not None else None,
    )


def _assumptions(model: ScalingModel, work: MeasuredJob, link: Link, asked_over: str) -> list[str]:
    """What a forecast takes for granted."""
    found = [
        f"{model.workers_per_node} workers on a node, each with cores of its own as fast as those measured",
        f"the {work.n_tiles:,} tiles that the parameters are cut into are shared as distnum shares them",
        "asking, gathering and planning grow with the workers as far as was measured "
        f"({', '.join(map(str, model.measured))})",
    ]
    over = f"each further node gets the parameters from the driver over {link.gbit_per_s:g} Gbit/s"
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


def _notes(work: MeasuredJob, measurements: Sequence[Measurement]) -> list[str]:
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
