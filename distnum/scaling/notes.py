"""Notes on the measurements of an experiment, and assumptions of its forecasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distnum.scaling.measurement import Measurement
from distnum.scaling.model import Link, ScalingModel
from distnum.scaling.summary import FEW_REPEATS, coverage, in_turns

__all__ = ["forecast_assumptions", "measurement_notes"]


def forecast_assumptions(model: ScalingModel, n_tiles: int, link: Link, asked_over: str) -> list[str]:
    """Return the assumptions of a model's forecasts.

    Args:
        model: The model.
        n_tiles: Number of tiles that the parameters are cut into.
        link: Link that is assumed between nodes.
        asked_over: How the measured workers get their tasks; see ``Measurement``.
    """
    assumptions = [
        f"each node has {model.workers_per_node} workers, with their own cores, as fast as those measured",
        f"the {n_tiles:,} tiles of the parameters are shared out as distnum does it",
        "the times of sending tasks, receiving answers and planning grow with the workers as measured "
        f"({', '.join(map(str, model.measured))})",
    ]
    over_link = f"each further node receives the parameters from the driver over {link.gbit_per_s:g} Gbit/s"
    if model.n_nodes == 1:
        assumptions.append(f"{over_link}, and answers return over the same link, as only one node was measured")
        if asked_over == "sockets":
            assumptions.append(
                "tasks are sent over sockets, as here; on a cluster they are sent by calls of Ray, which take longer"
            )
    elif model.node_is == "assumed":
        assumptions.append(f"{over_link}, as too few numbers of nodes were measured to fit that time")
    elif model.node_is == "undivided":
        assumptions.append(
            "all nodes had equally many workers, so the time of a node could not be separated from that of its "
            "workers; with another number of workers on a node the forecast is uncertain"
        )
    return assumptions


def measurement_notes(measurements: Sequence[Measurement], unequal_bits: str) -> list[str]:
    """Return the limitations of measurements.

    Args:
        measurements: All measurements of an experiment.
        unequal_bits: Likely reason if they do not end with the same bits.
    """
    notes = []
    fewest = min(Counter(one.setting for one in measurements).values())
    if fewest == 1:
        notes.append("settings that were measured once have no interval; measure with more repeats")
    elif fewest <= FEW_REPEATS:
        notes.append(
            f"an interval of {fewest} repeats is their range, which contains the true median in "
            f"{100 * coverage(fewest):.0f} % of cases"
        )
    if not in_turns(measurements):
        notes.append(
            "not all settings were measured in turns, so a drift of the machine may distort their ratios; to avoid "
            "that, measure all of them in another folder"
        )
    # In weak scaling each number of workers has its own batches.
    checksums: dict[int, set[str]] = {}
    for one in measurements:
        checksums.setdefault(one.workers if one.mode == "weak" else 0, set()).add(one.params_sha256)
    if any(len(different) > 1 for different in checksums.values()):
        notes.append(f"the same steps did not end with the same parameters in all measurements: {unequal_bits}")
    return notes
