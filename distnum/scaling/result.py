"""Result of a scaling experiment."""

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
    """Result of a scaling experiment.

    Attributes:
        measurements: All measurements, including those of earlier calls with the same folder.
        summaries: Summary of each setting, ordered by cores.
        model: Model of the parts of a step; None if it cannot be fitted.
        no_model: Why the model cannot be fitted; empty if there is one.
        forecasts: Forecasts for the requested numbers of workers.
        simulated_s: Simulated seconds of a step for each forecast; empty in weak scaling.
        assumptions: Assumptions of the model and the forecasts.
        laws: Amdahl's law and the universal scalability law, fitted to the same steps.
        notes: Limitations of these measurements.
        folder: Folder of the experiment, or None.
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
        """Return the result without its measurements, as in ``scaling.json``."""
        values: dict[str, Any] = {
            "summaries": [one.to_dict() for one in self.summaries],
            "laws": self.laws,
            "forecasts": [one.to_dict() for one in self.forecasts],
            "simulated_s": self.simulated_s,
            "assumptions": self.assumptions,
            "notes": self.notes,
        }
        if self.model is None:
            return values | {"no_model": self.no_model}
        bottleneck = self.model.bottleneck()
        values["model"] = {
            "coefficients": explained(self.model.coefficients),
            "fitted_on_workers": list(self.model.measured),
            "threads": self.model.threads,
            "workers_per_node": self.model.workers_per_node,
            "node_is": self.model.node_is,
            "worst_error": self.model.worst_error,
            "bottleneck": None if bottleneck is None else {"workers": bottleneck[0], "part": bottleneck[1]},
        }
        return values

    def plot(self, path: str | Path) -> None:
        """Plot speed-up, efficiency, the parts of a step, and balance, to a PNG, SVG or PDF file.

        Raises:
            InputError: The file cannot be written, or matplotlib is not installed.
        """
        from distnum.scaling.plots import plot_scaling

        plot_scaling(self.summaries, self.model, self.measurements[0].mode, Path(path))
