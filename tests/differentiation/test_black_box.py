"""Black boxes: any callable is differenced in place, put back exactly, and its failures are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.differentiation.black_box import BlackBox
from distnum.differentiation.objective import whole_gradient
from distnum.evaluation.forms import Form
from distnum.networks.dense import Network
from tests.reference import POINTS, naive_gradient, random_batch, relative_error


@pytest.mark.parametrize("scheme", POINTS)
def test_gradient_of_a_known_function(scheme: str) -> None:
    x = np.array([[0.3, -2.0], [5.0, 0.0]])
    found = distnum.gradient(lambda x: float(np.sin(x).sum() * x[0, 0]), x, scheme=scheme)
    expected = np.cos(x) * x[0, 0]
    expected[0, 0] += np.sin(x).sum()
    assert found.shape == x.shape
    np.testing.assert_allclose(found, expected, atol=3e-7 if scheme in ("forward", "backward") else 1e-9)


def test_gradient_of_a_dict_of_arrays() -> None:
    x = {"scale": np.array(2.0), "shift": np.array([1.0, 3.0])}
    found = distnum.gradient(lambda p: float(p["scale"] * (p["shift"] ** 2).sum()), x)
    assert list(found) == ["scale", "shift"]
    assert found["scale"] == pytest.approx(10.0)
    np.testing.assert_allclose(found["shift"], [4.0, 12.0], rtol=1e-8)


def test_steps_follow_the_size_of_the_parameter() -> None:
    for size in (1e-3, 1.0, 1e8, 1e15):
        found = distnum.gradient(lambda x: float(x[0] ** 2), np.array([size]))
        np.testing.assert_allclose(found, [2 * size], rtol=1e-9)


def test_naive_network_agrees_with_the_oracle() -> None:
    network = Network((9, 6, 4))
    params, batch = network.initial_params(1), random_batch(network, 7)
    objective = BlackBox(network.loss, Form.of_array((network.n_params,)), network.n_params, "central", 1e-4)
    expected = naive_gradient(network, params, batch, POINTS["central"], 1e-4)
    assert relative_error(whole_gradient(objective, params, batch), expected) < 1e-7


@pytest.mark.parametrize("fails_at", [1, 4, 9])
def test_parameters_are_put_back_exactly_if_the_loss_raises(fails_at: int) -> None:
    params = np.random.default_rng(0).standard_normal(7)
    before = params.copy()
    calls = []

    def loss(p: np.ndarray, batch: Any) -> float:
        calls.append(1)
        if len(calls) == fails_at:
            raise RuntimeError("the simulator crashed")
        return float((p**3).sum())

    objective = BlackBox(loss, Form.of_array((7,)), 7)
    with pytest.raises(RuntimeError, match="the simulator crashed"):
        whole_gradient(objective, params)
    np.testing.assert_array_equal(params, before)


def test_parameters_are_put_back_exactly_after_success() -> None:
    params = np.array([0.1, 1e-30, -3.7e5])
    before = params.tobytes()
    whole_gradient(BlackBox(lambda p, b: float(p.sum()), Form.of_array((3,)), 3, h=1e-3), params)
    assert params.tobytes() == before


def test_the_step_really_taken_is_what_is_divided_by() -> None:
    # Beside 1e5 a float32 cannot move by 0.01; a linear function shows whether that was noticed.
    x = np.array([1e5], np.float32)
    assert distnum.gradient(lambda x: float(x[0]) * 3, x, h=0.01)[0] == np.float32(3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_parameter(bad: float) -> None:
    x = {"w": np.zeros((2, 3)), "b": np.zeros(2)}

    def f(p: dict[str, np.ndarray]) -> float:
        return bad if p["w"][1, 2] != 0 else float(p["b"].sum())

    with pytest.raises(TrainingError, match=r"The function is (nan|inf) where w\[1, 2\] is moved"):
        distnum.gradient(f, x, h=1e-6)
    with pytest.raises(TrainingError, match=r"The function is (nan|inf) where w\[1, 2\] is moved .*\(step 1\)"):
        distnum.train(lambda p, batch: f(p), x, workers=0, steps=1)


def test_a_loss_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="fun returned the text 'high'; it must return a number"):
        distnum.gradient(lambda x: "high", np.zeros(2))


def test_a_step_that_vanishes_is_refused() -> None:
    with pytest.raises(InputError, match=r"h is 1e-06, which vanishes when added to x\[1\] = 1e\+30"):
        distnum.gradient(lambda x: 0.0, np.array([1.0, 1e30]), h=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (np.zeros(3, complex), "dtype complex128; it must be float32 or float64"),
        (np.array([1.0, np.nan]), "not finite"),
        ({"a": np.zeros(2), "b": np.zeros(2, np.float32)}, "mix the dtypes float32, float64"),
        (np.zeros(0), "x is empty"),
        ({}, "x is empty"),
        ("text", "x is the text 'text'; it must be a number, an array of float32, float64 or whole numbers"),
    ],
)
def test_parameters_that_cannot_be_used(params: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distnum.gradient(lambda x: 0.0, params)


@pytest.mark.parametrize("f", [lambda: 0.0, lambda x, y: 0.0])
def test_a_function_that_takes_something_else_is_refused(f: Any) -> None:
    with pytest.raises(InputError, match=r"fun takes \(.*\); it must take \(x\)"):
        distnum.gradient(f, np.zeros(2))
    with pytest.raises(InputError, match=r"loss takes .*; it must take \(params, batch\)"):
        distnum.train(lambda params: 0.0, np.zeros(2), workers=0)


def _product(x: Any) -> float:
    return float(x["a"][0] * x["b"][1] + np.sin(x["a"][1]))


def _its_gradient(x: Any) -> Any:
    return {"a": np.array([x["b"][1], np.cos(x["a"][1])]), "b": np.array([0.0, x["a"][0]])}


def test_a_right_gradient_passes_the_check_and_a_wrong_one_is_named() -> None:
    x = {"a": np.array([2.0, 0.3]), "b": np.array([-1.0, 5.0])}
    assert distnum.check_gradient(_product, _its_gradient, x).error < 1e-10
    wrong = _its_gradient(x)
    wrong["a"][1] *= 1.01
    found = distnum.check_gradient(_product, wrong, x)
    assert found.worst == "a[1]"
    assert found.given == pytest.approx(1.01 * found.numerical)
    assert 1e-4 < found.error < 1e-2
    with pytest.raises(InputError, match=r"grad is an array of shape \(2,\), but x is a dict with 'a', 'b'"):
        distnum.check_gradient(_product, np.zeros(2), x)


@pytest.mark.parametrize("workers", [-1, 1.5, "two", True])
def test_workers_that_cannot_be_are_refused(workers: Any) -> None:
    with pytest.raises(InputError, match=r"workers is .*; it must be 0 \(this process\)"):
        distnum.gradient(lambda x: 0.0, np.zeros(2), workers=workers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": 3}, "loss is 3; it must be a function, or the name"),
        ({"loss": lambda p, b: 0.0, "hidden": 3}, "hidden is 3, but a loss function is no network"),
        ({"loss": lambda p, b: 0.0, "data": "mnist-10k"}, "data is 'mnist-10k'; for a loss function it must be arrays"),
        ({"loss": lambda p, b: "3"}, "the loss returned the text '3'; it must return a number"),
    ],
)
def test_arguments_of_train_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    loss = arguments.pop("loss")
    with pytest.raises(InputError, match=message):
        distnum.train(loss, np.zeros(2), workers=0, steps=1, **arguments)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (np.full((2, 5), np.nan), [0, 1], "x is empty or holds a number that is not finite"),
        (np.ones((0, 5)), [], "x is empty"),
        (np.ones((2, 5)), [0, 2], "labels must be whole numbers from 0 to 1"),
        (np.ones((2, 5)), [0], r"t has shape \(1,\); it must be \(2,\) labels or \(2, 2\) rows"),
    ],
)
def test_batches_that_the_articles_class_refuses(x: Any, t: Any, message: str) -> None:
    network = distnum.TwoLayerNet(5, 3, 2)
    for use in (network.loss, network.accuracy, network.numerical_gradient):
        with pytest.raises(InputError, match=message):
            use(x, np.array(t, np.int64))
