"""Scaling experiments for users: what is measured, kept in a folder, fitted and foretold."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from distnum.checkpoints import write_whole
from distnum.config import Config
from distnum.errors import InputError, TrainingError
from distnum.facts import machine_facts, version_facts
from distnum.kinds import checked, real, whole
from distnum.objectives import LossFunction, Params
from distnum.placement import n_cores
from distnum.remote import is_uri
from distnum.runs import json_text
from distnum.scaling import Measurement, Setting, Work, measure_scaling, plan_settings, prepare_work
from distnum.scaling_fit import (
    Forecast,
    Network,
    ScalingModel,
    amdahl,
    explained,
    fit_model,
    universal_scalability,
)
from distnum.scaling_summary import Summary, efficiencies, summarise
from distnum.simulation import System, simulate

__all__ = ["ScalingFolder", "ScalingResult", "alone_in", "scale"]

_FORMAT = "distnum-scaling-1"


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {str(path)!r}, where no experiment can be kept: {error.strerror}.") from None


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Have a folder, which is made if it is not there, for this process alone.

    Raises:
        InputError: another process is measuring in it, or it cannot be made.
    """
    _make(path)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    # The folder itself is locked, so that nothing more lies in it.
    held = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"out is {str(path)!r}, which is in use: another distnum process is measuring in it."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(held)


class ScalingFolder:
    """``scaling.json`` and ``scaling.csv``: a row for each measurement, at every moment whole.

    Args:
        path: of the folder, which is made if it is not there.
        job: what is measured; the rows of another job are refused.

    Raises:
        InputError: it cannot be read or made, or holds measurements of something else.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._job = json.loads(json_text(job))
        self._rows: list[dict[str, Any]] = []
        _make(path)
        if self.json_file.exists():
            self._rows = self._read()

    @property
    def json_file(self) -> Path:
        return self.path / "scaling.json"

    @property
    def csv_file(self) -> Path:
        return self.path / "scaling.csv"

    @property
    def measurements(self) -> list[Measurement]:
        """All of them, in the order in which they were made."""
        return [Measurement.from_dict(row) for row in self._rows]

    def _read(self) -> list[dict[str, Any]]:
        where = f"{self.json_file} is not what a scaling experiment wrote"
        try:
            found = json.loads(self.json_file.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r:.40}")
            rows = found["measurements"]
            for row in rows:
                Measurement.from_dict(row)
            job = dict(found["job"])
        except OSError as error:
            raise InputError(f"{self.json_file} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where} ({error}); choose another folder with --out.") from None
        for name in sorted({*job, *self._job}):
            if job.get(name) != self._job.get(name):
                raise InputError(
                    f"{self.path} holds measurements with {name} = {job.get(name)!r:.60}, now it is "
                    f"{self._job.get(name)!r:.60}; choose another folder with --out."
                )
        return list(rows)

    def add(self, measurement: Measurement, about: Mapping[str, Any]) -> None:
        """Keep one more row.

        Raises:
            TrainingError: it cannot be written; the rows before it are intact.
        """
        self._rows.append(measurement.to_dict() | dict(about))
        self.write({})

    def write(self, findings: Mapping[str, Any]) -> None:
        """Write the rows, and what they say."""
        content = {"format": _FORMAT, "job": self._job, **findings, "measurements": self._rows}
        derived = zip(efficiencies(self.measurements), self.measurements, strict=True)
        rows = [
            row | {"efficiency": efficiency, "oversubscribed": one.oversubscribed}
            for row, (efficiency, one) in zip(self._rows, derived, strict=True)
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = StringIO()
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        try:
            write_whole(self.json_file, (json_text(content, indent=2) + "\n").encode())
            write_whole(self.csv_file, table.getvalue().encode())
        except OSError as error:
            raise TrainingError(
                f"{error.filename or self.path} cannot be written: {error.strerror}. What was measured before is "
                "intact."
            ) from None


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
    folder: Path | None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``scaling.json``."""
        found: dict[str, Any] = {
            "summaries": [one.to_dict() for one in self.summaries],
            "laws": self.laws,
            "forecasts": [one.to_dict() for one in self.forecasts],
            "simulated_s": self.simulated_s,
            "assumptions": self.assumptions,
        }
        if self.model is None:
            return found | {"no_model": self.no_model}
        bottleneck = self.model.bottleneck()
        found["model"] = {
            "coefficients": explained(self.model.coefficients),
            "fitted_on_workers": list(self.model.measured),
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
        gbit_per_s: of the network that a forecast assumes between nodes, if just one is measured.
        out: a folder to keep the measurements in; those that are there already count too.
        resume: measure only what is missing there of so many repeats.
        on_start: called when the workers are there, with their nodes and how many measurements will be made.
        on_measured: called with each measurement and how many are to follow.
        **options: fields of ``Config``.

    Raises:
        InputError: something given cannot be used, or cannot be measured.
        TrainingError: workers are lost again and again, or the folder cannot be written.
    """
    settings = plan_settings(default_workers() if workers is None else _several(workers), _several(threads))
    steps = checked("steps", steps, whole(1, 1_000_000))
    repeats = checked("repeats", repeats, whole(1, 10_000))
    warmup = checked("warmup", warmup, whole(0, 1_000_000))
    gbit_per_s = checked("gbit_per_s", gbit_per_s, real(above=0))
    forecast = [checked("forecast", number, whole(1, 1_000_000)) for number in _several(forecast)]
    if resume and out is None:
        raise InputError("resume is True, but out is not given; it must be the folder of the measurements.")
    if out == "" or is_uri(out):
        raise InputError(f"out is {out!r}; an experiment is kept in a folder, not at a URI.")
    work = prepare_work(loss, params, data, config, options, settings, mode)
    with alone_in(Path(out)) if out is not None else nullcontext():
        folder = ScalingFolder(Path(out), _identity(work)) if out is not None else None
        measurements = folder.measurements if folder is not None else []
        counts = {setting.workers for setting in settings} | {one.workers for one in measurements}
        if forecast and len(counts) < 2:
            raise InputError(
                f"forecast needs at least 2 numbers of workers to be measured, but workers is {min(counts)} alone."
            )
        missing = _missing(measurements, settings, repeats, resume)
        about = version_facts() | {name: str(value) for name, value in machine_facts().items()} | {"commit": _commit()}
        if missing:

            def started(n_nodes: int) -> None:
                if on_start is not None:
                    on_start(n_nodes, len(missing))

            for number, one in enumerate(measure_scaling(work, missing, steps, warmup, started), start=1):
                measurements.append(one)
                if folder is not None:
                    folder.add(one, about)
                if on_measured is not None:
                    on_measured(one, len(missing) - number)
        result = _result(work, measurements, forecast, Network(gbit_per_s), folder)
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
    """What must be the same for measurements that are held beside each other."""
    deciding = {name: value for name, value in work.job.deciding().items() if name != "steps"}
    return {"mode": work.mode, "n_params": work.job.objective.n_params} | deciding


def _missing(
    measurements: Sequence[Measurement], settings: Sequence[Setting], repeats: int, resume: bool
) -> list[tuple[int, Setting]]:
    """What to measure: repeat by repeat, the settings in turns."""
    there = {(one.repeat, one.setting) for one in measurements}
    done = max((one.repeat for one in measurements), default=0)
    # What was begun is finished, also where it was added to an experiment.
    numbers = range(1, max(done, repeats) + 1) if resume else range(done + 1, done + repeats + 1)
    return [(number, setting) for number in numbers for setting in settings if (number, setting) not in there]


def _commit() -> str:
    """Of the code that runs, if it runs from a checkout of its own; else nothing."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _result(
    work: Work,
    measurements: list[Measurement],
    forecast: Sequence[int],
    network: Network,
    folder: ScalingFolder | None,
) -> ScalingResult:
    objective = work.job.objective
    n_bytes = objective.n_params * work.job.initial.params.itemsize
    summaries = summarise(measurements)
    model, why = None, ""
    try:
        model = fit_model(measurements, work.planned_balance, n_bytes, network)
    except InputError as error:
        why = str(error)
    laws = {}
    honest = [one for one in summaries if not one.oversubscribed]
    # Fewer settings than a law has unknowns, or as many, say nothing of it.
    if work.mode == "strong" and len(honest) > 2:
        laws["amdahl"] = amdahl(honest)
    if work.mode == "strong" and len(honest) > 3:
        laws["universal scalability"] = universal_scalability(honest)
    simulated: list[float] = []
    if model is not None and not model.weak:
        system = System.of(model, n_bytes, work.costs, objective.groups, network)
        simulated = [float(np.median(simulate(system, int(k)))) for k in forecast]
    return ScalingResult(
        measurements,
        summaries,
        model,
        why,
        [] if model is None else [model.forecast(int(k)) for k in forecast],
        simulated,
        [] if model is None else _assumptions(model, work, measurements, network),
        laws,
        folder.path if folder is not None else None,
    )


def _assumptions(model: ScalingModel, work: Work, measurements: Sequence[Measurement], network: Network) -> list[str]:
    """What a forecast takes for granted."""
    n_nodes = max(one.nodes for one in measurements)
    found = [
        f"{model.workers_per_node} workers on a node, each with cores of its own as fast as those measured",
        f"the {work.n_tiles:,} tiles that the parameters are cut into are shared as distnum shares them",
        "asking, gathering and planning grow with the workers as far as was measured "
        f"({', '.join(map(str, model.measured))})",
    ]
    if n_nodes == 1:
        found.append(
            f"each further node gets the parameters from the driver over {network.gbit_per_s:g} Gbit/s; answers over a "
            "network were not measured: one node was, whose workers, in a session of distnum's own, are asked over "
            "sockets and not by calls of Ray, which take longer"
        )
    return found
