"""Routes of units' changes: which one is chosen, and that all give the same gradient."""

from __future__ import annotations

from itertools import product

import pytest

from distnum.differentiation.objective import whole_gradient
from distnum.networks.dense import Network
from distnum.networks.propagation import loops, push
from distnum.networks.propagation.objective import Propagation
from tests.networks.propagation.cases import LOSSES, needs_extended, network_params
from tests.reference import POINTS, naive_gradient, random_batch, relative_error


def assert_series_or_push_agree_with_the_oracle(
    activation: str, loss: str, terms: tuple[int, ...], sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_SERIES_TERMS", terms)
    pushed = []
    push_loop = push.push_loop
    monkeypatch.setattr(push, "push_loop", lambda *args: pushed.append(True) or push_loop(*args))
    network = Network(sizes, activation, loss)
    for scale, h in product((1, 3), (1e-4, 1e-2, 0.5)):
        params, batch = network_params(network) * scale, random_batch(network, 5)
        pushed.clear()
        gradient = whole_gradient(Propagation(network, "central", h), params, batch)
        assert relative_error(gradient, naive_gradient(network, params, batch, POINTS["central"], h)) <= 1e-9
        if h == 1e-4:
            assert bool(pushed) == (terms in ((), (3,)))
        if h == 0.5 and scale == 3:
            assert pushed


TERMS = [(), (3,), (9,), (3, 5, 9)]


@needs_extended
@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_smooth_later_layers_are_followed_by_series_or_pushed(
    activation: str, terms: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_series_or_push_agree_with_the_oracle(activation, "cross_entropy", terms, (3, 4, 4, 3), monkeypatch)


@needs_extended
@pytest.mark.slow
@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_compiled_series_and_pushes_agree_with_the_oracle(
    activation: str, loss: str, terms: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_series_or_push_agree_with_the_oracle(activation, loss, terms, (4, 8, 7, 6, 3), monkeypatch)


@needs_extended
@pytest.mark.usefixtures("plain_python")
@pytest.mark.parametrize("sizes", [(4, 5, 3), (4, 5, 4, 3)], ids=str)
def test_shifts_beyond_the_formula_are_followed_by_numpy(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = []
    add_by_numpy = push.add_by_numpy
    monkeypatch.setattr(push, "add_by_numpy", lambda *args: followed.append(args[2]) or add_by_numpy(*args))
    network = Network(sizes, "tanh")
    params, batch = network_params(network), random_batch(network, 4)
    gradient = whole_gradient(Propagation(network, "central", 1.5), params, batch)
    assert relative_error(gradient, naive_gradient(network, params, batch, POINTS["central"], 1.5)) <= 1e-9
    assert push.change_along_directions in followed
    assert (push.change_through_layers in followed) == (len(sizes) == 4)
