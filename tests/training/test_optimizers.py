"""Update rules against arithmetic done by hand; schedules; clipping. All of them pure."""

from __future__ import annotations

import json
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from distnum import InputError
from distnum.training.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule, clip

RATE = 0.1
START = [1.0, -2.0]
GRADIENTS = ([0.5, -1.0], [0.25, 2.0])


def two_updates(optimizer: Optimizer, dtype: str = "float64") -> list[NDArray[np.floating]]:
    params, found = np.array(START, dtype), []
    state = optimizer.initial_state(params)
    for step, grad in enumerate(GRADIENTS, start=1):
        params, state = optimizer.update(np.array(grad, dtype), state, params, RATE, step)
        found.append(params)
    return found


def _adam(p: float, g1: float, g2: float) -> tuple[float, float]:
    first = p - 0.1 * g1 / (abs(g1) + 1e-8)
    # Means of 0.09 g1 + 0.1 g2 over 1 - 0.9², and of the squares over 1 - 0.999².
    mean = (0.09 * g1 + 0.1 * g2) / 0.19
    square = (0.000999 * g1**2 + 0.001 * g2**2) / 0.001999
    return first, first - 0.1 * mean / (sqrt(square) + 1e-8)


BY_HAND = {
    "sgd": ([0.95, -1.9], [0.925, -2.1]),
    # The velocity is (0.5, -1), then 0.9 (0.5, -1) + (0.25, 2) = (0.7, 1.1).
    "momentum": ([0.95, -1.9], [0.88, -2.01]),
    # The directions are g + 0.9 v: (0.95, -1.9), then (0.88, 2.99).
    "nesterov": ([0.905, -1.81], [0.817, -2.109]),
    "adam": tuple(zip(_adam(1.0, 0.5, 0.25), _adam(-2.0, -1.0, 2.0), strict=True)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_updates_are_those_done_by_hand(name: str) -> None:
    for found, expected in zip(two_updates(Optimizer(name)), BY_HAND[name], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_without_momentum_they_are_plain_sgd(name: str) -> None:
    for found, expected in zip(two_updates(Optimizer(name, momentum=0)), BY_HAND["sgd"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_takes_its_share_of_the_parameters_and_stays_out_of_the_state(name: str) -> None:
    params = np.array(START)
    plain, decayed = Optimizer(name), Optimizer(name, weight_decay=0.01)
    grad, state = np.array(GRADIENTS[0]), plain.initial_state(params)
    without, state_without = plain.update(grad, state, params, RATE, 1)
    found, state_with = decayed.update(grad, state, params, RATE, 1)
    np.testing.assert_allclose(found, without - RATE * 0.01 * params, rtol=1e-14)
    assert state_with.keys() == state_without.keys()
    for slot, array in state_with.items():
        np.testing.assert_array_equal(array, state_without[slot])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_changes_none_of_its_arguments(name: str, weight_decay: float) -> None:
    optimizer = Optimizer(name, weight_decay=weight_decay)
    params, grad = np.array(START), np.array(GRADIENTS[0])
    state = optimizer.initial_state(params)
    for step in (1, 2, 3):
        given = {"params": params, "grad": grad, **state}
        before = {key: array.tobytes() for key, array in given.items()}
        slots = list(state)
        again = optimizer.update(grad, state, params, RATE, step)
        for array in given.values():
            array.flags.writeable = False
        new_params, new_state = optimizer.update(grad, state, params, RATE, step)
        assert {key: array.tobytes() for key, array in given.items()} == before
        assert list(state) == slots
        assert new_params.tobytes() == again[0].tobytes()
        for new in (new_params, *new_state.values()):
            assert not any(np.shares_memory(new, old) for old in given.values())
        params, state = new_params, new_state


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_dtype_of_the_parameters_stays(name: str, dtype: str, weight_decay: float) -> None:
    optimizer = Optimizer(name, weight_decay=weight_decay)
    params = np.array(START, dtype)
    state = optimizer.initial_state(params)
    for step in (1, 2):
        params, state = optimizer.update(np.array(GRADIENTS[0], dtype), state, params, RATE, step)
        assert params.dtype == dtype
        assert all(array.dtype == dtype and array.shape == params.shape for array in state.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_is_near_float64(name: str) -> None:
    for narrow, wide in zip(two_updates(Optimizer(name), "float32"), two_updates(Optimizer(name)), strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-6)


def test_an_unknown_rule_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="optimizer is 'lion'; it must be one of sgd, momentum, nesterov, adam"):
        Optimizer("lion")
    with pytest.raises(InputError, match="schedule is 'linear'; it must be one of constant, cosine, step"):
        Schedule("linear", 0.1, 10)


# --- schedules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Schedule("constant", 0.3, 100), {1: 0.3, 50: 0.3, 100: 0.3, 200: 0.3}),
        (Schedule("cosine", 0.4, 100), {1: 0.4, 26: 0.2 * (1 + sqrt(0.5)), 51: 0.2, 101: 0.0, 500: 0.0}),
        (
            Schedule("step", 0.4, 100, every=30, factor=0.5),
            {1: 0.4, 30: 0.4, 31: 0.2, 60: 0.2, 61: 0.1, 91: 0.05, 121: 0.025},
        ),
    ],
    ids=SCHEDULES,
)
def test_the_rate_of_each_step(schedule: Schedule, rates: dict[int, float]) -> None:
    assert {step: schedule.at(step) for step in rates} == pytest.approx(rates, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_is_a_plain_number_that_never_rises_nor_goes_below_zero(name: str) -> None:
    rates = [Schedule(name, 0.1, 50, every=7).at(step) for step in range(1, 61)]
    assert rates[0] == 0.1
    assert all(0 <= later <= earlier for earlier, later in pairwise(rates))
    assert all(rate > 0 for rate in rates[:50])
    assert json.loads(json.dumps(rates)) == rates


# --- clipping -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_longer_gradient_is_shortened_to_the_norm(dtype: str) -> None:
    grad = np.array([3.0, -4.0], dtype)
    clipped, norm = clip(grad, 0.5)
    np.testing.assert_allclose(clipped, [0.3, -0.4], rtol=1e-6)
    assert clipped.dtype == dtype
    assert norm == 5.0
    assert grad.tolist() == [3.0, -4.0]


@pytest.mark.parametrize("largest", [None, 5.0, 6.0])
def test_a_gradient_that_is_short_enough_keeps_its_bits(largest: float | None) -> None:
    grad = np.array([3.0, -4.0])
    clipped, norm = clip(grad, largest)
    assert clipped.tobytes() == grad.tobytes()
    assert norm == 5.0


def test_a_gradient_of_zeros_has_norm_zero() -> None:
    clipped, norm = clip(np.zeros(3), 1.0)
    assert (clipped.tolist(), norm) == ([0, 0, 0], 0.0)


def test_squares_beyond_float32_do_not_spoil_the_norm() -> None:
    clipped, norm = clip(np.array([3e30, 4e30], np.float32), 1.0)
    assert norm == pytest.approx(5e30)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)


def test_squares_beyond_float64_do_not_spoil_the_norm() -> None:
    clipped, norm = clip(np.array([3e200, 4e200]), 1.0)
    assert norm == pytest.approx(5e200)
    np.testing.assert_allclose(clipped, [0.6, 0.8])
