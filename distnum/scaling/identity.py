"""What must be equal for measurements to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distnum.common.errors import TrainingError
from distnum.scaling.measure import MeasuredJob
from distnum.scaling.measurement import Measurement, Setting
from distnum.storage.checkpoints import params_sha256

__all__ = ["check_nodes", "measured_identity", "missing_measurements"]


def measured_identity(work: MeasuredJob) -> dict[str, Any]:
    """What must be equal for measurements of two jobs to be compared."""
    job = work.job
    identity = {name: value for name, value in job.identity().items() if name != "steps"}
    identity |= {"mode": work.mode, "n_params": job.objective.n_params}
    return identity | {"initial_sha256": params_sha256(job.initial.params)} | job.subject.fingerprint()


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
