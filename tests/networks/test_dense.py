"""The network and its flat parameters."""

from __future__ import annotations

import numpy as np
import pytest

from distnum import InputError, Network


@pytest.fixture
def network() -> Network:
    return Network((3, 4, 2), "tanh")


def test_parameters_are_packed_and_unpacked_layer_by_layer(network: Network) -> None:
    params = np.arange(float(network.n_params))
    named = network.unpack(params)
    assert {name: array.shape for name, array in named.items()} == {"W1": (3, 4), "b1": (4,), "W2": (4, 2), "b2": (2,)}
    assert named["W1"].tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert named["b2"].tolist() == [24, 25]
    np.testing.assert_array_equal(network.pack(named), params)


def test_every_parameter_has_a_name(network: Network) -> None:
    names = [network.param_name(index) for index in range(network.n_params)]
    assert len(set(names)) == network.n_params
    assert (names[0], names[5], names[12], names[-1]) == ("W1[0, 0]", "W1[1, 1]", "b1[0]", "b2[1]")
    with pytest.raises(IndexError, match="26"):
        network.param_name(26)


@pytest.mark.parametrize(("name", "message"), [("W1", "W1 has shape"), ("b2", "b2 has shape")])
def test_arrays_of_the_wrong_shape_are_refused(network: Network, name: str, message: str) -> None:
    named = network.unpack(network.initial_params())
    with pytest.raises(InputError, match=message):
        network.pack(named | {name: np.zeros(5)})
    named.pop(name)
    with pytest.raises(InputError, match=f"parameter {name} is missing"):
        network.pack(named)


@pytest.mark.parametrize("sizes", [(3,), (3, 0, 2), (3, 2.5), (True, 2), ()])
def test_sizes_that_make_no_network_are_refused(sizes: tuple) -> None:
    with pytest.raises(InputError, match="sizes is"):
        Network(sizes)


@pytest.mark.parametrize(("init", "std"), [("he", (2 / 200) ** 0.5), ("xavier", (2 / 300) ** 0.5)])
def test_initial_weights_have_the_standard_deviation_of_their_source(init: str, std: float) -> None:
    named = Network((200, 100)).unpack(Network((200, 100)).initial_params(init=init))
    assert named["W1"].std() == pytest.approx(std, rel=0.03)
    assert not named["b1"].any()


def test_both_dtypes_get_the_same_initial_network(network: Network) -> None:
    wide, narrow = network.initial_params(3), network.initial_params(3, dtype=np.float32)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, wide.astype(np.float32))


def test_outputs_in_blocks_are_those_of_one_forward_pass(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distnum.networks.dense._EVALUATION_BLOCK", 4)
    params, x = network.initial_params(), np.random.default_rng(0).integers(0, 256, (10, 3), dtype=np.uint8)
    expected = np.tanh(x / 255 @ network.unpack(params)["W1"]) @ network.unpack(params)["W2"]
    np.testing.assert_allclose(network.outputs(params, x), expected, rtol=1e-12, atol=1e-14)
