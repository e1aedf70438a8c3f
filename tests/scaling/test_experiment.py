"""Scaling experiments: what is measured, kept, fitted and foretold."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.cli.main import main
from distnum.networks.propagation.objective import Propagation
from distnum.scaling.experiment import _notes, scale
from distnum.scaling.fit import amdahl, fit_model, universal_scalability
from distnum.scaling.folder import ScalingFolder
from distnum.scaling.identity import check_nodes, measured_identity, missing_measurements
from distnum.scaling.measure import plan_settings, prepare_measured_job
from distnum.scaling.measurement import PARTS, Measurement, Setting
from distnum.scaling.model import Link
from distnum.scaling.plots import plot_scaling
from distnum.scaling.report import scaling_report
from distnum.scaling.result import ScalingResult
from distnum.scaling.simulation import Design, Misfortune, System, simulate
from distnum.scaling.summary import coverage, efficiencies, in_turns, summarise
from distnum.storage.files import alone_in
from distnum.workers.ray_pool.shared_memory import SharedBlocks

# A step of a known system; seconds.
WORK, REPEATED, FIXED, EACH = 2.0, 0.01, 0.002, 0.0005


def measured(workers: int, repeat: int = 1, *, noise: float = 0.0, mode: str = "strong", **changes) -> Measurement:
    compute = (WORK if mode == "weak" else WORK / workers) + REPEATED * (workers if mode == "weak" else 1)
    compute *= 1 + noise * np.random.default_rng((workers, repeat)).standard_normal()
    parts = {
        "broadcast_s": FIXED / 4,
        "dispatch_s": EACH * workers,
        "compute_s": compute,
        "gather_s": FIXED / 4 + EACH * workers,
        "update_s": FIXED / 4,
        "other_s": FIXED / 4,
    }
    made = Measurement(
        mode=mode,
        workers=workers,
        threads=1,
        nodes=1,
        repeat=repeat,
        steps=5,
        warmup=1,
        step_s=sum(parts.values()),
        mean_compute_s=compute,
        balance=1.0,
        planned_balance=1.0,
        busy=0.01,
        cores=2,
        asked_over="sockets",
        params_sha256="ab",
        measured_at="2026-11-25T12:00:00+00:00",
        **parts,
    )
    return replace(made, **changes)


def even(k: int) -> float:
    return 1.0


def true_step_s(k: int) -> float:
    return WORK / k + REPEATED + FIXED + 2 * EACH * k


MEASURED = [measured(k, repeat, noise=0.01) for repeat in range(1, 6) for k in (1, 2, 4)]


# --- what the measurements say ----------------------------------------------------------


def test_the_model_recovers_the_system_and_foretells_it() -> None:
    model = fit_model([measured(k) for k in (1, 2, 4)], even, 8, Link())
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


def test_intervals_hold_what_they_are_of_and_shrink_with_less_noise() -> None:
    rough = summarise([measured(k, r, noise=0.05) for r in range(1, 6) for k in (1, 4)])[1]
    fine = summarise([measured(k, r, noise=0.005) for r in range(1, 6) for k in (1, 4)])[1]
    for one in (rough, fine):
        assert one.step_s.low <= one.step_s.value <= one.step_s.high
        assert one.speed_up.low < one.speed_up.value < one.speed_up.high
        assert one.efficiency.value == pytest.approx(one.speed_up.value / 4)
    assert fine.speed_up.high - fine.speed_up.low < (rough.speed_up.high - rough.speed_up.low) / 3


def test_further_nodes_cost_what_the_network_takes() -> None:
    model = fit_model(MEASURED, even, n_bytes=1.25e9, link=Link(gbit_per_s=10))
    assert model.workers_per_node == 4
    assert model.parts(4)["broadcast_s"][0] == pytest.approx(FIXED / 4)
    assert model.parts(12)["broadcast_s"][0] == pytest.approx(FIXED / 4 + 2 * 1.0)
    assert model.parts(12)["gather_s"][0] == pytest.approx(FIXED / 4 + EACH * 12 + 1.0)  # and the answers


def test_the_largest_of_some_equal_times_is_told_from_their_spread() -> None:
    def uneven(k: int, sigma: float = 0.02) -> Measurement:
        largest = np.random.default_rng(k).standard_normal((20_000, k)).max(axis=1).mean()
        one = measured(k)
        slowest = one.compute_s + sigma * float(largest)
        return replace(one, compute_s=slowest, step_s=one.step_s - one.compute_s + slowest)

    model = fit_model([uneven(k) for k in (1, 2, 4)], even, 8, Link())
    assert model.coefficients["jitter_s"][0] == pytest.approx(0.02, rel=0.03)
    assert model.step_s(1000)[0] == pytest.approx(uneven(1000).step_s, rel=0.01)
    # The simulator draws these times from the same spread; asking and taking would overlap with it.
    played = replace(System.of(model, np.ones(100_000)), ask_s=0, take_s=0)
    parts = model.parts(64)
    assert np.mean(simulate(played, 64, 400)) == pytest.approx(float(parts["compute_s"][0]) + FIXED, rel=0.02)


def test_a_part_that_is_nearly_nothing_somewhere_decides_nothing() -> None:
    # Of a step of two seconds this part is lost in the noise; of shorter ones it is not.
    def uncertain(k: int) -> Measurement:
        gather = -2e-6 if k == 1 else 0.02 * k
        one = measured(k)
        return replace(one, gather_s=gather, step_s=one.step_s - one.gather_s + gather)

    model = fit_model([uncertain(k) for k in (1, 2, 4, 8)], even, 8, Link())
    assert model.parts(8)["gather_s"][0] == pytest.approx(0.16, rel=0.05)
    assert model.worst_error < 0.02


def on_nodes(k: int, n_nodes: int, node_s: float = 0.03) -> Measurement:
    one = measured(k, nodes=n_nodes)
    taken = node_s * (n_nodes - 1)
    return replace(one, gather_s=one.gather_s + taken, step_s=one.step_s + taken)


def test_what_a_node_takes_is_told_apart_where_nodes_hold_several_workers() -> None:
    spread = [on_nodes(*places) for places in ((1, 1), (2, 2), (4, 2), (8, 3))]
    model = fit_model(spread, even, 1e9, Link(), workers_per_node=16)
    assert model.node_is == "measured"
    assert model.coefficients["node_s"][0] == pytest.approx(0.03)
    assert model.forecast(64).nodes == 4
    assert model.step_s(64)[0] == pytest.approx(true_step_s(64) + 3 * 0.03)
    assert fit_model(spread, even, 1e9, Link()).forecast(64).nodes == 22
    played = System.of(model, np.ones(100_000))
    assert (played.node_s, played.answers_s) == (pytest.approx(0.03), 0.0)
    # With a node for each worker nobody can tell what is whose, and the sum is as good.
    alone = fit_model([on_nodes(k, k) for k in (1, 2, 4)], even, 1e9, Link())
    assert alone.node_is == "undivided"
    assert alone.step_s(64)[0] == pytest.approx(true_step_s(64) + 63 * 0.03)


@pytest.mark.parametrize("places", [((2, 2), (4, 2), (8, 2)), ((2, 2), (8, 3)), ((1, 1), (4, 2))])
def test_what_a_node_takes_is_assumed_where_too_few_numbers_of_them_tell(places: tuple) -> None:
    link = Link(gbit_per_s=10)
    n_bytes = 0.03 * 10e9 / 8  # which takes as long as on_nodes has it
    model = fit_model([on_nodes(*place) for place in places], even, n_bytes, link, workers_per_node=4)
    assert model.node_is == "assumed"
    assert model.step_s(64)[0] == pytest.approx(true_step_s(64) + 15 * 0.03)


def test_what_is_assumed_of_nodes_does_not_contradict_what_was_measured() -> None:
    slow = Link(gbit_per_s=1)  # a second for a node that took 30 ms
    model = fit_model([on_nodes(*places) for places in ((1, 1), (4, 2))], even, 1.25e8, slow)
    assert model.node_is == "assumed"
    assert model.worst_error < 0.03


def test_workers_that_compute_while_others_are_asked_make_a_step_shorter() -> None:
    def overlapping(k: int) -> Measurement:
        one = measured(k)
        return replace(one, gather_s=-0.8 * EACH * k, step_s=one.step_s - one.gather_s - 0.8 * EACH * k)

    model = fit_model([overlapping(k) for k in (1, 2, 4)], even, 8, Link())
    assert model.step_s(32)[0] == pytest.approx(overlapping(32).step_s)
    assert model.parts(32)["gather_s"][0] == pytest.approx(-0.8 * EACH * 32)
    assert System.of(model, np.ones(8)).take_s == 0


def test_on_nodes_that_were_not_measured_the_simulator_agrees_with_the_model() -> None:
    model = fit_model([measured(k) for k in (1, 2, 4)], even, 8e8, Link(gbit_per_s=10), workers_per_node=4)
    played = replace(System.of(model, np.ones(100_000)), ask_s=0, take_s=0)
    for k in (4, 8, 16):
        asked_and_taken = 2 * EACH * k
        assert np.median(simulate(played, k)) == pytest.approx(float(model.step_s(k)[0]) - asked_and_taken, rel=0.01)


def test_the_model_is_of_threads_that_have_several_numbers_of_workers() -> None:
    ones = [measured(1), *(measured(k, threads=2, cores=8) for k in (1, 2, 4))]
    assert fit_model(ones, even, 8, Link()).threads == 2


def test_intervals_of_few_repeats_hold_the_median_about_as_often_as_is_said() -> None:
    held = {5: 0, 8: 0}
    for n_repeats in held:
        for sample in range(200):
            times = 1 + 0.1 * np.random.default_rng((n_repeats, sample)).standard_normal(n_repeats)
            (one,) = summarise([measured(1, r, step_s=float(t)) for r, t in enumerate(times, 1)])
            held[n_repeats] += one.step_s.low <= 1 <= one.step_s.high
    assert held[5] / 200 == pytest.approx(coverage(5), abs=0.04)
    assert held[8] / 200 == pytest.approx(0.9, abs=0.05)


def test_what_was_measured_once_has_no_interval_and_two_points_prove_no_model() -> None:
    once = [measured(1), measured(2), measured(2, 2, noise=0.01)]
    one, two = summarise(once)
    assert np.isnan(one.step_s.low)
    assert two.step_s.low < two.step_s.high
    assert np.isnan(two.speed_up.high)  # beside what has none
    model = fit_model(once, even, 8, Link())
    assert np.isnan(model.forecast(8).step_s.low)
    notes = _notes(SimpleNamespace(mode="strong"), once)
    assert notes[0] == "what was measured once has no interval; measure with more repeats"
    (note,) = _notes(SimpleNamespace(mode="strong"), MEASURED)
    assert "which holds the true median in 94 % of cases" in note
    told = scaling_report(ScalingResult(once, [one, two], model, "", [model.forecast(8)], [1.0], [], {}, notes, None))
    assert "nan" not in told
    assert "off by 0.0% at most, which of two numbers of workers says little" in told
    assert "beside 1 worker with 1 thread each" in told
    assert "note: what was measured once" in told


def test_settings_that_were_not_measured_in_turns_are_told() -> None:
    assert in_turns(MEASURED)
    later = [measured(8, repeat) for repeat in range(1, 6)]
    assert not in_turns([*MEASURED, *later])  # added with --resume
    assert not in_turns([*MEASURED, *(replace(one, repeat=one.repeat + 5) for one in later)])  # or as more repeats
    assert in_turns([*MEASURED, *(replace(one, repeat=one.repeat + 5) for one in MEASURED)])
    function = SimpleNamespace(mode="strong", job=SimpleNamespace(network=None))
    assert "not all settings were measured in turns" in _notes(function, [*MEASURED, *later])[-1]


def test_parameters_that_differ_are_told() -> None:
    differing = [*MEASURED, replace(MEASURED[0], params_sha256="cd")]
    function = SimpleNamespace(mode="strong", job=SimpleNamespace(network=None))
    assert "the function gives other numbers for the same parameters" in _notes(function, differing)[-1]
    network = SimpleNamespace(mode="strong", job=SimpleNamespace(network=1))
    assert "round differently" in _notes(network, differing)[-1]
    by_workers = [replace(one, mode="weak", params_sha256=str(one.workers)) for one in MEASURED]
    assert len(_notes(SimpleNamespace(mode="weak"), by_workers)) == 1


def test_weak_scaling_gives_every_worker_the_same_work() -> None:
    model = fit_model([measured(k, mode="weak") for k in (1, 2, 4)], even, 8, Link())
    assert model.coefficients["work_s"][0] == pytest.approx(WORK)
    assert model.coefficients["repeated_s"][0] == pytest.approx(REPEATED)
    summaries = summarise([measured(k, mode="weak") for k in (1, 4)])
    assert summaries[1].speed_up.value == pytest.approx(4 * summaries[0].step_s.value / summaries[1].step_s.value)
    assert 0.9 < summaries[1].efficiency.value < 1


def test_settings_with_too_few_cores_are_marked_and_left_out() -> None:
    crowded = [measured(4, r, busy=0.5, cores=2) for r in (1, 2)]
    assert all(one.oversubscribed for one in crowded)
    assert not measured(32, busy=0.01, cores=2).oversubscribed  # waits for something else
    assert not measured(2, busy=1.0, cores=2).oversubscribed
    both = [measured(k, r) for r in (1, 2) for k in (1, 2)] + crowded
    assert fit_model(both, even, 8, Link()).measured == (1, 2)
    with pytest.raises(InputError, match=r"a model needs at least 2 numbers of workers .*; it has 1\."):
        fit_model([measured(1), *crowded], even, 8, Link())


def test_the_laws_of_amdahl_and_gunther_on_steps_that_obey_them() -> None:
    def with_step(k: int, step_s: float) -> Measurement:
        return measured(k, step_s=step_s)

    serial = summarise([with_step(k, 0.1 + 0.9 / k) for k in (1, 2, 4, 8)])
    assert amdahl(serial)["serial"] == pytest.approx(0.1)
    sigma, kappa = 0.05, 0.002
    laws = summarise([with_step(k, (1 + sigma * (k - 1) + kappa * k * (k - 1)) / k) for k in (1, 2, 4, 8)])
    found = universal_scalability(laws)
    assert (found["sigma"], found["kappa"]) == pytest.approx((sigma, kappa))
    assert found["worst_error"] < 1e-9


def test_efficiencies_are_beside_the_same_repeat() -> None:
    ones = [measured(1, 1, step_s=1.0), measured(4, 1, step_s=0.5), measured(4, 2, step_s=0.25)]
    assert efficiencies(ones) == [1.0, 0.5, None]


# --- the simulator -------------------------------------------------------------------------


def system(**changes) -> System:
    model = fit_model([measured(k) for k in (1, 2, 4)], even, 8e6, Link())
    made = System.of(model, np.ones(100_000))
    return replace(made, **{"workers_per_node": 10**6, **changes})


@pytest.mark.parametrize("k", [1, 2, 4, 50, 1000])
def test_without_misfortune_a_simulated_step_is_between_what_overlaps_and_what_does_not(k: int) -> None:
    step_s = np.median(simulate(system(), k))
    # Asking the last and computing follow each other; answers that come one by one are taken meanwhile.
    assert WORK / k + REPEATED + FIXED + EACH * (k + 1) * 0.999 <= step_s <= true_step_s(k) * 1.001


def test_simulated_misfortune_costs_time_and_never_ends_a_step() -> None:
    calm = simulate(system(), 100, 50)
    assert np.ptp(calm) < 1e-12
    late = simulate(system(), 100, 50, misfortune=Misfortune(straggler_share=0.02, straggler_factor=50))
    # A copy is handed out after 0.25 s and twice the time, so that no straggler holds a step up for long.
    assert calm[0] < np.median(late) < calm[0] + 0.5
    lost = simulate(system(), 100, 50, misfortune=Misfortune(failures_per_hour=3600, detect_s=1))
    assert calm[0] + 0.5 < np.median(lost) < calm[0] + 3
    assert np.array_equal(lost, simulate(system(), 100, 50, misfortune=Misfortune(3600, 1)))


def test_a_tree_takes_the_answers_of_many_workers_sooner() -> None:
    many = 10_000
    flat, tree = (np.median(simulate(system(), many, 5, design)) for design in (Design(), Design(fan=100)))
    assert flat > 2 * many * EACH * 0.9
    assert tree < flat / 10
    few = [np.median(simulate(system(), 8, 5, design)) for design in (Design(), Design(fan=100))]
    assert few[0] == few[1]


def test_sharded_updates_spare_the_drivers_link() -> None:
    spread = system(workers_per_node=1, node_s=0.64, answers_s=0.64)
    flat, sharded = (np.median(simulate(spread, 64, 3, design)) for design in (Design(), Design(sharded_update=True)))
    assert flat > 64 * 0.64
    assert sharded < 2


# --- settings and folders ----------------------------------------------------------------------


def test_settings_are_all_combinations() -> None:
    assert plan_settings([1, 4], [1, 2]) == [Setting(1, 1), Setting(4, 1), Setting(1, 2), Setting(4, 2)]


@pytest.mark.parametrize(
    ("workers", "threads", "message"),
    [
        ([], [1], "workers is empty; it must be numbers of at least 1"),
        ([1, 0], [1], "workers holds 0; a scaling experiment needs at least 1"),
        ([1, 2, 1], [1], "workers is 1,2,1; every number must stand there once"),
        ([-2], [1], "workers is -2; it must be a whole number of at least 1"),
        ([1], [0], "threads holds 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(workers: list[int], threads: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_settings(workers, threads)


def square(w, batch):
    return float(w @ w)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": [1, 9]}, "workers holds 9, but the 8 parameters are cut into 8 tiles"),
        ({"threads": [2]}, "threads is more than 1, but whole loss functions"),
        ({"mode": "weak"}, "mode is 'weak', which grows the batch"),
        ({"mode": "middling"}, "mode is 'middling'; it must be one of strong, weak"),
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"repeats": -1}, "repeats is -1"),
        ({"forecast": [0]}, "forecast is 0"),
        ({"forecast": 8}, "forecast needs at least 2 numbers of workers to be measured, but workers is 1 alone"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"out": "s3://bucket/x"}, "out is 's3://bucket/x'; an experiment is kept in a folder"),
        ({"out": ""}, "out is ''"),
        ({"gbit_per_s": float("nan")}, "gbit_per_s is nan"),
        ({"workers_per_node": 0}, "workers_per_node is 0"),
        ({"resume": True}, "resume is True, but out is not given"),
    ],
)
def test_experiments_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale(square, np.ones(8), **{"workers": [1], **arguments})


def test_threads_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(InputError, match="threads is more than 1, but whole loss functions"):
        scale(workers=[1], threads=[1, 2], method="naive", hidden=(4,))


def test_a_folder_that_another_process_measures_in_is_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(InputError, match="is in use: another distnum process"):
        scale(square, np.ones(8), workers=[1], out=tmp_path)
    for one in MEASURED[:2]:
        with alone_in(tmp_path):
            ScalingFolder(tmp_path, {}).add(one, {})
    assert ScalingFolder(tmp_path, {}).measurements == MEASURED[:2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_measured_elsewhere_is_not_held_beside_it(tmp_path: Path) -> None:
    here = MEASURED[0]
    check_nodes([here], replace(here, repeat=2))
    check_nodes([here], replace(MEASURED[1], nodes=2, cores=4))  # more workers may be on more nodes
    with pytest.raises(
        TrainingError, match="workers = 1 was on 1 node with 2 cores, and is on 2 nodes with 4 cores now"
    ):
        check_nodes([here], replace(here, nodes=2, cores=4))
    folder = ScalingFolder(tmp_path, {})
    folder.check_place({"asked_over": "sockets", "node_cpus": (2,)})
    folder.add(here, {})
    again = ScalingFolder(tmp_path, {})
    again.check_place({"asked_over": "sockets", "node_cpus": (2,)})
    with pytest.raises(InputError, match=r"with node_cpus = \[2\], now it is \[2, 2\]; choose another folder"):
        again.check_place({"asked_over": "sockets", "node_cpus": (2, 2)})
    with pytest.raises(InputError, match="with asked_over = 'sockets', now it is 'Ray'"):
        again.check_place({"asked_over": "Ray", "node_cpus": (2,)})


def cube(w, batch):
    return float((w**3).sum())


def scaled(factor, w, batch):
    return factor * float(w @ w)


def test_a_folder_is_of_one_function_and_one_way_to_measure(tmp_path: Path) -> None:
    def work(loss, start: float = 1.0):
        options = ("strong", None, {}, [Setting(1, 1)])
        return prepare_measured_job(loss, np.full(8, start), None, options[1], options[2], options[3], options[0])

    ScalingFolder(tmp_path, measured_identity(work(square))).add(MEASURED[0], {})
    assert ScalingFolder(tmp_path, measured_identity(work(square))).measurements == MEASURED[:1]
    others = [(work(cube), "function"), (work(square, 2.0), "initial_sha256")]
    for other, name in others:
        with pytest.raises(InputError, match=f"holds measurements with {name} = "):
            ScalingFolder(tmp_path, measured_identity(other))
    ScalingFolder(tmp_path / "bound", measured_identity(work(partial(scaled, 1)))).add(MEASURED[0], {})
    assert ScalingFolder(tmp_path / "bound", measured_identity(work(partial(scaled, 1)))).measurements
    with pytest.raises(InputError, match="holds measurements with arguments_sha256 = "):
        ScalingFolder(tmp_path / "bound", measured_identity(work(partial(scaled, 2))))


def test_what_was_begun_is_finished() -> None:
    settings = [Setting(1, 1), Setting(2, 1)]
    first = [replace(MEASURED[0], workers=k, repeat=n) for n in (1, 2) for k in (1, 2)]
    assert missing_measurements(first, settings, 2, resume=True) == []
    assert missing_measurements(first, settings, 1, resume=False) == [(3, Setting(1, 1)), (3, Setting(2, 1))]
    added = [*first, replace(MEASURED[0], repeat=3)]
    assert missing_measurements(added, settings, 2, resume=True) == [(3, Setting(2, 1))]


def test_a_batch_that_would_grow_beyond_the_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"workers holds 100: batch_size is 10,000, but mnist-10k has 8,000"):
        scale(workers=[1, 100], mode="weak")


def test_a_folder_keeps_rows_and_refuses_those_of_another_job(tmp_path: Path) -> None:
    folder = ScalingFolder(tmp_path / "new", {"h": 1e-4, "hidden": (50,)})
    for one in MEASURED[:4]:
        folder.add(one, {"cpu": "a processor"})
    again = ScalingFolder(tmp_path / "new", {"h": 1e-4, "hidden": (50,)})
    assert again.measurements == MEASURED[:4]
    rows = list(csv.DictReader(folder.csv_file.read_text().splitlines()))
    assert [int(row["workers"]) for row in rows] == [1, 2, 4, 1]
    assert rows[0]["cpu"] == "a processor"
    assert float(rows[1]["efficiency"]) == pytest.approx(MEASURED[0].step_s / MEASURED[1].step_s / 2)
    with pytest.raises(InputError, match=r"measurements with h = 0.0001, now it is 0.001; choose another folder"):
        ScalingFolder(tmp_path / "new", {"h": 1e-3, "hidden": (50,)})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 3}', b'{"format": "distnum-scaling-2"}', b"\xff"])
def test_a_folder_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scaling.json").write_bytes(content)
    with pytest.raises(InputError, match="is not what a scaling experiment wrote"):
        ScalingFolder(tmp_path, {})
    good = {"format": "distnum-scaling-2", "job": {}, "measurements": [MEASURED[0].to_dict() | {"workers": "many"}]}
    (tmp_path / "scaling.json").write_text(json.dumps(good))
    with pytest.raises(InputError, match="workers is 'many'"):
        ScalingFolder(tmp_path, {})
    for name, value in (("workers", 0), ("step_s", 0.0), ("update_s", -1.0), ("balance", float("nan")), ("mode", "x")):
        good["measurements"] = [MEASURED[0].to_dict() | {name: value}]
        (tmp_path / "scaling.json").write_text(json.dumps(good))
        with pytest.raises(InputError, match=f"{name} is "):
            ScalingFolder(tmp_path, {})


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(suffix: str, tmp_path: Path) -> None:
    ones = [*MEASURED, *(replace(one, threads=2, busy=1.0) for one in MEASURED)]
    model = fit_model(MEASURED, even, 8, Link())
    plot_scaling(summarise(ones), model, "strong", tmp_path / f"scaling{suffix}")
    assert (tmp_path / f"scaling{suffix}").stat().st_size > 10_000


# --- on workers ---------------------------------------------------------------------------------


def wait(w, batch):
    time.sleep(0.005)
    return float(w @ w)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_waiting_function_on_more_workers_than_cores(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    common = {"steps": 2, "warmup": 1, "out": tmp_path}
    result = distnum.scale(
        wait,
        np.ones(48),
        workers=[1, 2, 6],
        repeats=2,
        forecast=[12, 1000],
        on_measured=lambda one, n_left: seen.append((one.workers, n_left)),
        **common,
    )
    assert seen == [(1, 5), (2, 4), (6, 3), (1, 2), (2, 1), (6, 0)]
    assert len({one.params_sha256 for one in result.measurements}) == 1  # the same bits on any number
    for one in result.measurements:
        # Of two steps the medians are means, whose sum is the step.
        assert one.step_s == pytest.approx(sum(getattr(one, part) for part in PARTS))
        assert one.busy < 0.75
        assert not one.oversubscribed
    assert result.summaries[2].speed_up.value > 3
    assert [one.workers for one in result.forecasts] == [12, 1000]
    assert result.forecasts[1].step_s.value >= 2 * 2 * 0.005  # one tile is the least that a worker gets
    report = scaling_report(result)
    assert "first bottleneck" in report
    assert "assumed beyond what was measured: " in report

    # What is there is not measured again; one more setting is.
    result = distnum.scale(wait, np.ones(48), workers=[1, 2, 3, 6], repeats=2, resume=True, **common)
    assert [one.workers for one in result.measurements] == [1, 2, 6, 1, 2, 6, 3, 3]
    result = distnum.scale(wait, np.ones(48), workers=[2], repeats=1, **common)
    assert (result.measurements[-1].workers, result.measurements[-1].repeat) == (2, 3)
    kept = json.loads((tmp_path / "scaling.json").read_text())
    assert len(kept["measurements"]) == 9
    assert kept["model"]["coefficients"]["work_s"]["value"] > 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scaling"
    few = ["--workers", "1,2", "--steps", "2", "--warmup", "0", "--repeats", "1", "--hidden", "4", "--out", str(out)]
    assert main(["scale", *few, "--forecast", "8"]) == 0
    printed = capsys.readouterr()
    assert "repeat 1: 2 workers" in printed.err
    assert "forecast" in printed.out
    assert {path.name for path in out.iterdir()} == {"scaling.csv", "scaling.json", "scaling.png", "scaling.svg"}
    assert main(["scale", *few, "--resume", "--json"]) == 0  # nothing is missing
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(out)
    assert [one["workers"] for one in told["summaries"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "1,x"], "workers is '1,x'; it must be whole numbers separated by commas"),
        (["--workers", ""], "workers is empty"),
        (["--threads", "0"], "threads holds 0"),
        (["--steps", "none"], "steps is 'none'; it must be a whole number of at least 1"),
        (["--mode", "both"], "mode is 'both'; it must be one of strong, weak"),
        (["--resume"], "resume needs --out DIR"),
        (["--out", "s3://bucket/x"], "an experiment is kept in a folder, not at a URI"),
        (["--forecast", "-3"], "forecast is -3"),
        (["--workers-per-node", "0"], "workers_per_node is '0'; it must be a whole number of at least 1"),
        (["--gbit-per-s", "0"], "gbit_per_s is '0'; it must be a finite number above 0"),
        (["--learning-rate", "0"], "learning_rate is '0'"),
    ],
)
def test_commands_that_cannot_be_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scale", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_weak_scaling_and_threads_of_a_network(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []

    def create(folder: Path | None, *shape: int) -> SharedBlocks | None:
        shapes.append(shape)
        return SharedBlocks.create(folder, *shape)

    monkeypatch.setattr("distnum.workers.ray_pool.pool.SharedBlocks", SimpleNamespace(create=create))
    work = {"hidden": 5, "schedule": "step", "schedule_every": 1, "schedule_factor": 0.5}
    settings = {"workers": [1, 2], "threads": [1, 2], "steps": 2, "warmup": 1, "repeats": 1}
    strong = distnum.scale(**settings, **work)
    assert [one.setting for one in strong.summaries] == [Setting(1, 1), Setting(2, 1), Setting(1, 2), Setting(2, 2)]
    trained = distnum.train(steps=3, workers=0, **work).params_sha256
    assert {one.params_sha256 for one in strong.measurements} == {trained}
    shapes.clear()
    weak = distnum.scale(mode="weak", batch_size=200, **settings, **work)
    for one in weak.measurements:
        # As if so large a batch had been trained on from the first step on.
        trained = distnum.train(steps=3, workers=0, batch_size=200 * one.workers, **work).params_sha256
        assert one.params_sha256 == trained
    assert {one.asked_over for one in weak.measurements} == {"Ray" if way == "calls" else "sockets"}
    # A forward pass that workers of one machine share is of the batch that they have.
    network = distnum.Network((784, 5, 10))
    fitting = [Propagation(network).shareable((np.empty((200 * k, 784)), None), np.float64) for k in (1, 2)]
    assert list(dict.fromkeys(shapes)) == ([] if way == "calls" else fitting)
    assert weak.notes == ["what was measured once has no interval; measure with more repeats"]
