"""The model and the laws, fitted to steps that obey them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distnum import InputError
from distnum.scaling.fit import amdahl, fit_model, universal_scalability
from distnum.scaling.measurement import Measurement
from distnum.scaling.model import Link
from distnum.scaling.simulation import System, simulate
from distnum.scaling.summary import summarise
from tests.scaling.measurements import (
    EACH,
    FIXED,
    MEASURED,
    REPEATED,
    WORK,
    even_balance,
    measured,
    on_nodes,
    true_step_s,
)


def test_the_model_recovers_and_forecasts_a_known_system() -> None:
    model = fit_model([measured(k) for k in (1, 2, 4)], even_balance, 8, Link())
    value = {name: draws[0] for name, draws in model.coefficients.items()}
    assert value["work_s"] == pytest.approx(WORK)
    assert value["repeated_s"] == pytest.approx(REPEATED)
    assert value["worker_dispatch_s"] == pytest.approx(EACH)
    assert value["jitter_s"] == pytest.approx(0, abs=1e-12)
    assert model.worst_error < 1e-9
    for k in (8, 16, 1000):
        assert model.step_s(k, 1)[0] == pytest.approx(true_step_s(k))
    assert model.forecast(1).speed_up.value == pytest.approx(1)
    k, part = model.bottleneck()
    assert part == "gather_s"
    assert WORK / k < true_step_s(k) / 2
    assert WORK / (k - 1) >= true_step_s(k - 1) / 2


def test_further_nodes_take_the_time_of_the_assumed_link() -> None:
    model = fit_model(MEASURED, even_balance, n_bytes=1.25e9, link=Link(gbit_per_s=10))
    assert model.workers_per_node == 4
    assert model.parts(4)["broadcast_s"][0] == pytest.approx(FIXED / 4)
    assert model.parts(12)["broadcast_s"][0] == pytest.approx(FIXED / 4 + 2 * 1.0)
    assert model.parts(12)["gather_s"][0] == pytest.approx(FIXED / 4 + EACH * 12 + 1.0)  # including the answers


def test_the_slowest_worker_follows_from_the_jitter() -> None:
    def uneven(k: int, sigma: float = 0.02) -> Measurement:
        largest = np.random.default_rng(k).standard_normal((20_000, k)).max(axis=1).mean()
        one = measured(k)
        slowest = one.compute_s + sigma * float(largest)
        return replace(one, compute_s=slowest, step_s=one.step_s - one.compute_s + slowest)

    model = fit_model([uneven(k) for k in (1, 2, 4)], even_balance, 8, Link())
    assert model.coefficients["jitter_s"][0] == pytest.approx(0.02, rel=0.03)
    assert model.step_s(1000)[0] == pytest.approx(uneven(1000).step_s, rel=0.01)
    # The simulator draws from the same distribution. Without asking and taking, nothing overlaps.
    simulated_system = replace(System.of(model, np.ones(100_000)), ask_s=0, take_s=0)
    parts = model.parts(64)
    assert np.mean(simulate(simulated_system, 64, 400)) == pytest.approx(float(parts["compute_s"][0]) + FIXED, rel=0.02)


def test_a_part_that_is_negligible_on_one_worker_does_not_spoil_the_fit() -> None:
    # On one worker, in a step of two seconds, this part is noise; on more workers it is not.
    def uncertain(k: int) -> Measurement:
        gather = -2e-6 if k == 1 else 0.02 * k
        one = measured(k)
        return replace(one, gather_s=gather, step_s=one.step_s - one.gather_s + gather)

    model = fit_model([uncertain(k) for k in (1, 2, 4, 8)], even_balance, 8, Link())
    assert model.parts(8)["gather_s"][0] == pytest.approx(0.16, rel=0.05)
    assert model.worst_error < 0.02


def test_the_time_of_a_node_is_fitted_if_nodes_have_different_numbers_of_workers() -> None:
    several = [on_nodes(*pair) for pair in ((1, 1), (2, 2), (4, 2), (8, 3))]
    model = fit_model(several, even_balance, 1e9, Link(), workers_per_node=16)
    assert model.node_is == "measured"
    assert model.coefficients["node_s"][0] == pytest.approx(0.03)
    assert model.forecast(64).nodes == 4
    assert model.step_s(64)[0] == pytest.approx(true_step_s(64) + 3 * 0.03)
    assert fit_model(several, even_balance, 1e9, Link()).forecast(64).nodes == 22
    system = System.of(model, np.ones(100_000))
    assert (system.node_s, system.answers_s) == (pytest.approx(0.03), 0.0)
    # With one worker on each node, only the sum of both times is determined.
    alone = fit_model([on_nodes(k, k) for k in (1, 2, 4)], even_balance, 1e9, Link())
    assert alone.node_is == "undivided"
    assert alone.step_s(64)[0] == pytest.approx(true_step_s(64) + 63 * 0.03)


@pytest.mark.parametrize("pairs", [((2, 2), (4, 2), (8, 2)), ((2, 2), (8, 3)), ((1, 1), (4, 2))])
def test_the_time_of_a_node_is_assumed_if_too_few_numbers_of_nodes_were_measured(pairs: tuple) -> None:
    link = Link(gbit_per_s=10)
    n_bytes = 0.03 * 10e9 / 8  # these bytes take 0.03 s, the default of on_nodes
    model = fit_model([on_nodes(*pair) for pair in pairs], even_balance, n_bytes, link, workers_per_node=4)
    assert model.node_is == "assumed"
    assert model.step_s(64)[0] == pytest.approx(true_step_s(64) + 15 * 0.03)


def test_the_assumed_time_of_a_node_does_not_exceed_the_measured_one() -> None:
    slow = Link(gbit_per_s=1)  # assumes 1 s for a node that took 30 ms
    model = fit_model([on_nodes(*pair) for pair in ((1, 1), (4, 2))], even_balance, 1.25e8, slow)
    assert model.node_is == "assumed"
    assert model.worst_error < 0.03


def test_gathering_is_negative_if_workers_compute_while_others_are_asked() -> None:
    def overlapping(k: int) -> Measurement:
        one = measured(k)
        return replace(one, gather_s=-0.8 * EACH * k, step_s=one.step_s - one.gather_s - 0.8 * EACH * k)

    model = fit_model([overlapping(k) for k in (1, 2, 4)], even_balance, 8, Link())
    assert model.step_s(32)[0] == pytest.approx(overlapping(32).step_s)
    assert model.parts(32)["gather_s"][0] == pytest.approx(-0.8 * EACH * 32)
    assert System.of(model, np.ones(8)).take_s == 0


def test_threads_with_several_numbers_of_workers_are_fitted() -> None:
    ones = [measured(1), *(measured(k, threads=2, cores=8) for k in (1, 2, 4))]
    assert fit_model(ones, even_balance, 8, Link()).threads == 2


def test_weak_scaling_gives_every_worker_the_same_work() -> None:
    model = fit_model([measured(k, mode="weak") for k in (1, 2, 4)], even_balance, 8, Link())
    assert model.coefficients["work_s"][0] == pytest.approx(WORK)
    assert model.coefficients["repeated_s"][0] == pytest.approx(REPEATED)


def test_settings_with_too_few_cores_are_marked_and_left_out() -> None:
    crowded = [measured(4, r, busy=0.5, cores=2) for r in (1, 2)]
    assert all(one.oversubscribed for one in crowded)
    assert not measured(32, busy=0.01, cores=2).oversubscribed  # it waits for something else
    assert not measured(2, busy=1.0, cores=2).oversubscribed
    both = [measured(k, r) for r in (1, 2) for k in (1, 2)] + crowded
    assert fit_model(both, even_balance, 8, Link()).measured == (1, 2)
    with pytest.raises(InputError, match=r"a model needs at least 2 numbers of workers .*; it has 1\."):
        fit_model([measured(1), *crowded], even_balance, 8, Link())


def test_amdahls_and_gunthers_laws_are_recovered() -> None:
    def with_step(k: int, step_s: float) -> Measurement:
        return measured(k, step_s=step_s)

    serial = summarise([with_step(k, 0.1 + 0.9 / k) for k in (1, 2, 4, 8)])
    assert amdahl(serial)["serial"] == pytest.approx(0.1)
    sigma, kappa = 0.05, 0.002
    laws = summarise([with_step(k, (1 + sigma * (k - 1) + kappa * k * (k - 1)) / k) for k in (1, 2, 4, 8)])
    fitted = universal_scalability(laws)
    assert (fitted["sigma"], fitted["kappa"]) == pytest.approx((sigma, kappa))
    assert fitted["worst_error"] < 1e-9
