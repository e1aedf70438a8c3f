"""The result of a scaling experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distnum.scaling.measurement import Measurement
from distnum.scaling.model import Forecast, ScalingModel, explained
from distnum.scaling.summary import Summary

__all__ = ["ScalingResult"]


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
        from distnum.scaling.plots import plot_scaling

        plot_scaling(self.summaries, self.model, self.measurements[0].mode, Path(path))
