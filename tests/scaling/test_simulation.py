"""The simulator compared with the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distnum.scaling.fit import fit_model
from distnum.scaling.model import Link
from distnum.scaling.simulation import System, simulate
from tests.scaling.measurements import EACH, FIXED, REPEATED, WORK, even_balance, measured, true_step_s


def test_the_simulator_agrees_with_the_model_on_nodes_that_were_not_measured() -> None:
    model = fit_model([measured(k) for k in (1, 2, 4)], even_balance, 8e8, Link(gbit_per_s=10), workers_per_node=4)
    system = replace(System.of(model, np.ones(100_000)), ask_s=0, take_s=0)
    for k in (4, 8, 16):
        asked_and_taken = 2 * EACH * k
        assert np.median(simulate(system, k)) == pytest.approx(float(model.step_s(k)[0]) - asked_and_taken, rel=0.01)


def known_system(**changes) -> System:
    """The system of ``measured``, with all workers on one node."""
    model = fit_model([measured(k) for k in (1, 2, 4)], even_balance, 8e6, Link())
    system = System.of(model, np.ones(100_000))
    return replace(system, **{"workers_per_node": 10**6, **changes})


@pytest.mark.parametrize("k", [1, 2, 4, 50, 1000])
def test_a_simulated_step_lies_between_full_and_no_overlap(k: int) -> None:
    step_s = np.median(simulate(known_system(), k))
    # The last worker computes after it was asked. Taking the other answers may overlap with that.
    assert WORK / k + REPEATED + FIXED + EACH * (k + 1) * 0.999 <= step_s <= true_step_s(k) * 1.001
