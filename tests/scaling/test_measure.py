"""The measured job and its settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import distnum
from distnum import InputError
from distnum.networks.propagation.objective import Propagation
from distnum.scaling.experiment import scale
from distnum.scaling.measure import plan_settings
from distnum.scaling.measurement import Setting
from distnum.workers.ray_pool.shared_memory import SharedBlocks


def test_settings_are_all_combinations() -> None:
    assert plan_settings([1, 4], [1, 2]) == [Setting(1, 1), Setting(4, 1), Setting(1, 2), Setting(4, 2)]


@pytest.mark.parametrize(
    ("workers", "threads", "message"),
    [
        ([], [1], "workers is empty; it must be numbers of at least 1"),
        ([1, 0], [1], "workers holds 0; a scaling experiment needs at least 1"),
        ([1, 2, 1], [1], "workers is 1,2,1; every number must be given only once"),
        ([-2], [1], "workers is -2; it must be a whole number of at least 1"),
        ([1], [0], "threads holds 0"),
    ],
)
def test_impossible_settings_are_refused(workers: list[int], threads: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_settings(workers, threads)


def test_threads_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(InputError, match="threads is more than 1, but each worker evaluates whole loss functions"):
        scale(workers=[1], threads=[1, 2], method="naive", hidden=(4,))


def test_a_batch_that_would_exceed_the_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"workers holds 100: batch_size is 10,000, but mnist-10k has 8,000"):
        scale(workers=[1, 100], mode="weak")


@pytest.mark.slow
def test_weak_scaling_and_threads_keep_the_bits_of_a_training(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []

    def create(folder: Path | None, *shape: int) -> SharedBlocks | None:
        shapes.append(shape)
        return SharedBlocks.create(folder, *shape)

    monkeypatch.setattr("distnum.workers.ray_pool.shared_memory.SharedBlocks", SimpleNamespace(create=create))
    work = {"hidden": 5, "schedule": "step", "schedule_every": 1, "schedule_factor": 0.5}
    settings = {"workers": [1, 2], "threads": [1, 2], "steps": 2, "warmup": 1, "repeats": 1}
    strong = distnum.scale(**settings, **work)
    assert [one.setting for one in strong.summaries] == [Setting(1, 1), Setting(2, 1), Setting(1, 2), Setting(2, 2)]
    trained = distnum.train(steps=3, workers=0, **work).params_sha256
    assert {one.params_sha256 for one in strong.measurements} == {trained}
    shapes.clear()
    weak = distnum.scale(mode="weak", batch_size=200, **settings, **work)
    for one in weak.measurements:
        # Equal to a training with this batch size from the first step on.
        trained = distnum.train(steps=3, workers=0, batch_size=200 * one.workers, **work).params_sha256
        assert one.params_sha256 == trained
    assert {one.asked_over for one in weak.measurements} == {"Ray" if way == "calls" else "sockets"}
    # Workers of one machine share the forward pass of their own batch.
    network = distnum.Network((784, 5, 10))
    fitting = [Propagation(network).shared_blocks((np.empty((200 * k, 784)), None), np.float64) for k in (1, 2)]
    assert list(dict.fromkeys(shapes)) == ([] if way == "calls" else fitting)
    assert weak.notes == ["settings that were measured once have no interval; measure with more repeats"]
