"""A simulation of which the command line takes the derivative; see ``orbit.toml``."""

from __future__ import annotations

from typing import Any

import numpy as np


def orbit(x: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return where a planet is after a year, and how much energy the integrator has lost.

    Args:
        x: ``position`` and ``velocity``, each of shape ``(2,)``, and ``mass`` of the star.
        steps: Number of leapfrog steps.
    """
    position, velocity, mass = x["position"].copy(), x["velocity"].copy(), x["mass"]

    def pull() -> np.ndarray:
        return -mass * position / np.linalg.norm(position) ** 3

    def energy() -> float:
        return float(velocity @ velocity / 2 - mass / np.linalg.norm(position))

    dt, before = 2 * np.pi / steps, energy()
    for _ in range(steps):
        velocity += dt / 2 * pull()
        position += dt * velocity
        velocity += dt / 2 * pull()
    return {"position": position, "loss": energy() - before}
