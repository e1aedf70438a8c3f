"""Which measurements may be compared, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distnum.common.errors import TrainingError
from distnum.scaling.measure import MeasuredJob
from distnum.scaling.measurement import Measurement, Setting
from distnum.storage.checkpoints import params_sha256

__all__ = ["check_nodes", "measured_identity", "missing_measurements"]


def measured_identity(work: MeasuredJob) -> dict[str, Any]:
    """Return the facts of a job that must be equal for its measurements to be compared with others."""
    job = work.job
    identity = {name: value for name, value in job.identity().items() if name not in ("steps", "params")}
    identity |= {"mode": work.mode, "n_params": job.objective.n_params}
    return identity | {"initial_sha256": params_sha256(job.initial.params)} | job.subject.fingerprint()


def check_nodes(before: Sequence[Measurement], one: Measurement) -> None:
    """Check that a measurement was made on the same nodes as earlier ones of its setting.

    Raises:
        TrainingError: The nodes have changed.
    """
    for other in before:
        if other.setting == one.setting and (other.nodes, other.cores) != (one.nodes, one.cores):
            there, here = (f"{m.nodes} node{'s'[: m.nodes > 1]} with {m.cores} cores" for m in (other, one))
            raise TrainingError(
                f"The cluster has changed: measurements with workers = {one.setting} were on {there}, now they are on "
                f"{here}. Measure all settings again in another folder: the two cannot be compared."
            )


def missing_measurements(
    measurements: Sequence[Measurement], settings: Sequence[Setting], repeats: int, resume: bool
) -> list[tuple[int, Setting]]:
    """Return the number of the repeat and the setting of each measurement to make, in turns."""
    measured = {(one.repeat, one.setting) for one in measurements}
    done = max((one.repeat for one in measurements), default=0)
    # Repeats that were begun are finished, including those that were added to an experiment.
    numbers = range(1, max(done, repeats) + 1) if resume else range(done + 1, done + repeats + 1)
    return [(number, setting) for number in numbers for setting in settings if (number, setting) not in measured]
