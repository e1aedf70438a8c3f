"""Tune a bang-bang controller in a simulator: a loss without a derivative.

A cart is pushed with full force to the left or to the right, depending on the sign of a weighted sum of
its state. A run ends when the pole falls or the cart leaves the track. The loss is the fraction of the
time lost in this way. It is a step function of the weights, so its derivative is zero almost
everywhere. Differences with a large step, over a batch of random initial states, still show in which
direction it falls.

    python examples/balance_a_pole.py            # on Ray, on all cores
    python examples/balance_a_pole.py --workers 0

The cart and pole are from A. Barto, R. Sutton and C. Anderson, "Neuronlike adaptive elements that can
solve difficult learning control problems", IEEE Transactions on Systems, Man, and Cybernetics 13 (1983).
"""

from __future__ import annotations

import argparse

import numpy as np

import distnum

N_TICKS, TICK_S = 250, 0.02
GRAVITY, CART_KG, POLE_KG, HALF_POLE_M, FORCE_N = 9.8, 1.0, 0.1, 0.5, 10.0
TRACK_M, FALLEN_RAD = 2.4, 0.21


def lost_time(params: dict[str, np.ndarray], states: np.ndarray) -> float:
    """Return the mean fraction of 5 s in which the pole is not up, over initial states of shape ``(n, 4)``."""
    x, x_speed, angle, turning = states.T.copy()
    up = np.ones(len(states), dtype=bool)
    ticks_up = np.zeros(len(states))
    state_weights = params["weights"]
    mass, pole_moment = CART_KG + POLE_KG, POLE_KG * HALF_POLE_M
    for _ in range(N_TICKS):
        side = state_weights[0] * x + state_weights[1] * x_speed + state_weights[2] * angle + state_weights[3] * turning
        force = np.where(side > 0, FORCE_N, -FORCE_N)
        sin, cos = np.sin(angle), np.cos(angle)
        pull = (force + pole_moment * turning**2 * sin) / mass
        turn = (GRAVITY * sin - cos * pull) / (HALF_POLE_M * (4 / 3 - POLE_KG * cos**2 / mass))
        push = pull - pole_moment * turn * cos / mass
        x, x_speed = x + TICK_S * x_speed, x_speed + TICK_S * push
        angle, turning = angle + TICK_S * turning, turning + TICK_S * turn
        up &= (np.abs(x) < TRACK_M) & (np.abs(angle) < FALLEN_RAD)
        ticks_up += up
        if not up.any():
            break
    return float(1 - ticks_up.mean() / N_TICKS)


def initial_states(step: int) -> np.ndarray:
    """Return 100 random states near the centre, different ones in every step."""
    return np.random.default_rng([7, step]).uniform(-0.1, 0.1, (100, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="auto", help="number of Ray workers; 0 for none (default: auto)")
    options = parser.parse_args()

    params = {"weights": np.array([0.0, 0.0, 0.1, 0.0])}
    test = initial_states(1_000_000)
    print(f"before: {100 * lost_time(params, test):.1f} % of the time lost")
    result = distnum.train(
        lost_time,
        params,
        data=initial_states,
        h=0.05,
        steps=60,
        learning_rate=0.05,
        optimizer="adam",
        workers=options.workers,
    )
    print(f"after {len(result.metrics)} steps: {100 * lost_time(result.params, test):.1f} % of the time lost")
    print("weights:", np.round(result.params["weights"], 3))


if __name__ == "__main__":
    main()
