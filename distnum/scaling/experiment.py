"""``distnum.scale``: measure how the steps of a training scale, and forecast larger numbers of workers."""

from __future__ import annotations

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
from distnum.evaluation.forms import Params
from distnum.scaling.fit import amdahl, fit_model, universal_scalability
from distnum.scaling.folder import ScalingFolder, locked_folder
from distnum.scaling.identity import check_nodes, measured_identity, missing_measurements
from distnum.scaling.measure import MeasuredJob, measure_scaling, plan_settings, prepare_measured_job
from distnum.scaling.measurement import ClusterNodes, Measurement
from distnum.scaling.model import Link
from distnum.scaling.notes import forecast_assumptions, measurement_notes
from distnum.scaling.result import ScalingResult
from distnum.scaling.simulation import System, simulate
from distnum.scaling.summary import Summary, summarise
from distnum.storage.plain_files import absolute
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
    """Measure how the steps of a training scale with workers and threads, and forecast larger numbers.

    Args:
        loss, params, data, config: The training, as for ``distnum.train``.
        workers: Numbers of workers to measure; by default 1, 2, 4, ... up to the cores of this machine.
        threads: Numbers of threads of each worker; each is measured with each number of workers.
        mode: ``"strong"``: the same steps for all; ``"weak"``: the batch grows with the workers.
        steps: Steps of one measurement.
        repeats: Measurements of each setting; the settings take turns.
        warmup: Steps before each measurement that are not measured.
        forecast: Numbers of workers to forecast.
        workers_per_node: Workers on each node of a forecast; by default the most that were measured.
        gbit_per_s: Bandwidth between nodes that a forecast assumes if only one node is measured.
        out: Folder for the measurements. Measurements in it are used as well, and must have been made with
            the same job, machine, versions, ``steps`` and ``warmup``.
        resume: Whether to measure only what is missing in ``out``: of ``repeats`` repeats, or of all that
            were begun there.
        on_start: Called with the number of nodes and of measurements to make, when the workers are ready.
        on_measured: Called with each measurement and the number of those left.
        **options: Fields of ``Config``.

    Returns:
        The measurements with their summaries, the model, and the forecasts.

    Raises:
        InputError: An argument is invalid, or a setting cannot be measured.
        TrainingError: Workers are lost repeatedly, the nodes change, or the folder cannot be written.
    """
    settings = plan_settings(default_workers() if workers is None else _as_sequence(workers), _as_sequence(threads))
    steps = checked("steps", steps, whole(1, 1_000_000))
    repeats = checked("repeats", repeats, whole(1, 10_000))
    warmup = checked("warmup", warmup, whole(0, 1_000_000))
    if workers_per_node is not None:
        workers_per_node = checked("workers_per_node", workers_per_node, whole(1, 1_000_000))
    gbit_per_s = checked("gbit_per_s", gbit_per_s, real(above=0))
    forecast = [checked("forecast", number, whole(1, 1_000_000)) for number in _as_sequence(forecast)]
    if resume and out is None:
        raise InputError("resume is True, but out is not given; it must be the folder of the measurements.")
    if out == "" or is_uri(out):
        raise InputError(f"out is {out!r}; it must be a local folder, not a URI.")
    # Functions of the user run from here on, and may change the working directory.
    place = absolute(Path(out)) if out is not None else None
    work = prepare_measured_job(loss, params, data, config, options, settings, mode)
    about = version_facts() | {name: str(value) for name, value in machine_facts().items()} | {"commit": git_commit()}
    with locked_folder(place) if place is not None else nullcontext():
        identity = measured_identity(work) | {"steps": steps, "warmup": warmup} | about
        folder = ScalingFolder(place, identity) if place is not None else None
        measurements = folder.measurements if folder is not None else []
        counts = {setting.workers for setting in settings} | {one.workers for one in measurements}
        if forecast and len(counts) < 2:
            raise InputError(
                f"forecast needs at least 2 numbers of workers to be measured, but workers is only {min(counts)}."
            )
        missing = missing_measurements(measurements, settings, repeats, resume)
        if missing:

            def started(nodes: ClusterNodes) -> None:
                if folder is not None:
                    folder.check_cluster({"asked_over": nodes.asked_over, "node_cpus": nodes.node_cpus})
                if on_start is not None:
                    on_start(nodes.n_nodes, len(missing))

            for number, one in enumerate(measure_scaling(work, missing, steps, warmup, started), start=1):
                check_nodes(measurements, one)
                measurements.append(one)
                if folder is not None:
                    folder.add(one, about)
                if on_measured is not None:
                    on_measured(one, len(missing) - number)
        path = Path(out) if out is not None else None
        result = _analyse(work, measurements, forecast, workers_per_node, Link(gbit_per_s), path)
        if folder is not None:
            folder.write(result.to_dict())
        return result


def default_workers() -> list[int]:
    """Return 1, 2, 4, ... up to the cores of this machine, and at least 1 and 2."""
    cores = max(2, n_cores())
    return [2**i for i in range(cores.bit_length()) if 2**i <= cores]


def _as_sequence(numbers: int | Sequence[int]) -> Sequence[int]:
    """Return the numbers; a single number as a list."""
    return numbers if isinstance(numbers, (Sequence, np.ndarray)) else [numbers]


def _analyse(
    work: MeasuredJob,
    measurements: list[Measurement],
    forecast: Sequence[int],
    workers_per_node: int | None,
    link: Link,
    folder: Path | None,
) -> ScalingResult:
    """Summarise the measurements, fit the model and the laws, and forecast."""
    objective = work.job.objective
    n_bytes = objective.n_params * work.job.initial.params.itemsize
    balance = cache(work.planned_balance)  # planning many shards may take a tenth of a second
    summaries = summarise(measurements)
    model, no_model = None, ""
    try:
        model = fit_model(measurements, balance, n_bytes, link, workers_per_node=workers_per_node)
    except InputError as error:
        no_model = str(error)
    simulated_s: list[float] = []
    if model is not None and not model.weak:
        system = System.of(model, work.costs, objective.groups)
        simulated_s = [float(np.median(simulate(system, k))) for k in forecast]
    asked_over = measurements[0].asked_over
    return ScalingResult(
        measurements,
        summaries,
        model,
        no_model,
        forecasts=[] if model is None else [model.forecast(k) for k in forecast],
        simulated_s=simulated_s,
        assumptions=[] if model is None else forecast_assumptions(model, len(work.costs), link, asked_over),
        laws=_fit_laws(summaries) if work.mode == "strong" else {},
        notes=measurement_notes(measurements, work.job.subject.unequal_bits),
        folder=folder,
    )


def _fit_laws(summaries: Sequence[Summary]) -> dict[str, dict[str, float]]:
    """Fit the laws that have fewer unknowns than there are numbers of cores."""
    usable = [one for one in summaries if not one.oversubscribed]
    n_numbers = len({one.setting.cores for one in usable})
    laws = {}
    if n_numbers > 2:
        laws["amdahl"] = amdahl(usable)
    if n_numbers > 3:
        laws["universal scalability"] = universal_scalability(usable)
    return {name: law for name, law in laws.items() if np.isfinite(list(law.values())).all()}
