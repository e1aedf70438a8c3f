"""What must be equal for measurements to be compared."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from distnum.common.errors import TrainingError
from distnum.differentiation.black_box import BlackBox, LossFunction
from distnum.scaling.measure import MeasuredJob
from distnum.scaling.measurement import Measurement, Setting
from distnum.storage.checkpoints import params_sha256

__all__ = ["check_nodes", "measured_identity", "missing_measurements"]


def measured_identity(work: MeasuredJob) -> dict[str, Any]:
    """What must be the same of the work where measurements are held beside each other."""
    job, objective = work.job, work.job.objective
    found = {name: value for name, value in job.identity().items() if name != "steps"}
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


def check_nodes(before: Sequence[Measurement], one: Measurement) -> None:
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


def missing_measurements(
    measurements: Sequence[Measurement], settings: Sequence[Setting], repeats: int, resume: bool
) -> list[tuple[int, Setting]]:
    """What to measure: repeat by repeat, the settings in turns."""
    there = {(one.repeat, one.setting) for one in measurements}
    done = max((one.repeat for one in measurements), default=0)
    # What was begun is finished, also where it was added to an experiment.
    numbers = range(1, max(done, repeats) + 1) if resume else range(done + 1, done + repeats + 1)
    return [(number, setting) for number in numbers for setting in settings if (number, setting) not in there]
