"""Schemes: exact on polynomials, of the order they claim, and found by name and order."""

from __future__ import annotations

import numpy as np
import pytest

from distnum import InputError
from distnum.differentiation.stencils.schemes import SCHEMES, get_scheme

ORDERS = {"forward": (1, 2), "backward": (1, 2), "central": (2, 4, 6, 8), "complex": (2,)}
REAL = [get_scheme(name, order) for name, orders in ORDERS.items() for order in orders if name != "complex"]
every_real_scheme = pytest.mark.parametrize("scheme", REAL, ids=lambda scheme: scheme.name)


@every_real_scheme
def test_weights_on_hand_made_numbers(scheme) -> None:
    # f(x) = x at x = 0: the changes are the offsets themselves, and the derivative is one.
    changes = np.array(scheme.offsets, dtype=float) * 0.5
    assert scheme.combine(changes, 0.5) == pytest.approx(1.0, abs=1e-15)


@every_real_scheme
def test_exact_on_polynomials_up_to_its_order(scheme) -> None:
    for power in range(2, scheme.order + 1):
        changes = np.array([(1.0 + o) ** power - 1.0 for o in scheme.offsets])
        assert scheme.combine(changes, 1.0) == pytest.approx(power, rel=1e-13)
    beyond = scheme.order + 1
    changes = np.array([(1.0 + o) ** beyond - 1.0 for o in scheme.offsets])
    assert scheme.combine(changes, 1.0) != pytest.approx(beyond, rel=1e-3)


@every_real_scheme
def test_error_falls_with_the_claimed_power_of_h(scheme) -> None:
    def error(h: float) -> float:
        changes = np.array([np.expm1(o * h) for o in scheme.offsets])
        return abs(float(scheme.combine(changes, h)) - 1.0)

    assert np.log2(error(0.2) / error(0.1)) == pytest.approx(scheme.order, abs=0.35)


@every_real_scheme
def test_a_scheme_has_as_many_points_as_its_order(scheme) -> None:
    assert len(scheme.offsets) == len(scheme.numerators) == scheme.order


@every_real_scheme
def test_pairs_are_the_same_sum(scheme) -> None:
    def value(offset: int) -> float:
        return float(np.sin(1 + 0.1 * offset))

    pairs = sum(weight * (value(first) - value(second)) for first, second, weight in scheme.pairs)
    combined = scheme.combine(np.array([value(o) - value(0) for o in scheme.offsets]), 1.0)
    assert pairs / scheme.denominator == pytest.approx(float(combined), rel=1e-12)


def test_the_complex_step_moves_by_an_imaginary_number() -> None:
    scheme = get_scheme("complex")
    assert scheme.imaginary
    assert not any(other.imaginary for other in REAL)
    value = np.exp(complex(1.0, 1e-20 * scheme.offsets[0]))
    assert scheme.combine(np.array([value.imag]), 1e-20) == pytest.approx(np.e, rel=1e-15)


def test_networks_and_the_command_line_have_four_schemes() -> None:
    assert list(SCHEMES) == ["forward", "backward", "central", "central4"]
    assert all(get_scheme(name) is scheme for name, scheme in SCHEMES.items())


@pytest.mark.parametrize(("family", "orders"), ORDERS.items())
def test_a_scheme_is_found_by_name_and_order(family, orders) -> None:
    assert get_scheme(family).order == orders[0]
    for order in orders:
        scheme = get_scheme(family, order)
        assert scheme.order == order
        assert scheme.name.startswith(family)
        assert get_scheme(scheme.name) is get_scheme(scheme.name, order) is scheme
        assert get_scheme(family, np.int64(order)) is get_scheme(family, str(order)) is scheme


@pytest.mark.parametrize(("word", "name"), [("2-point", "forward"), ("3-point", "central"), ("cs", "complex")])
def test_the_names_of_scipy_are_accepted(word, name) -> None:
    assert get_scheme(word) is get_scheme(name)


@pytest.mark.parametrize("name", ["centre", "", None, 3, ["central"], "central2"])
def test_unknown_scheme_is_refused(name) -> None:
    with pytest.raises(InputError, match=r"scheme is .*forward, backward, central, central4, complex \(or 2-point"):
        get_scheme(name)


@pytest.mark.parametrize(
    ("name", "order", "allowed"),
    [
        ("central", 3, "2 or 4 or 6 or 8"),
        ("central", 10, "2 or 4 or 6 or 8"),
        ("forward", 4, "1 or 2"),
        ("backward", 0, "1 or 2"),
        ("complex", 4, "2"),
        ("central4", 2, "4"),
        ("3-point", 1, "2 or 4 or 6 or 8"),
        ("central", 2.5, "2 or 4 or 6 or 8"),
        ("forward", True, "1 or 2"),
        ("central", True, "2 or 4 or 6 or 8"),
        ("central", "two", "2 or 4 or 6 or 8"),
        ("central", np.array([2, 4]), "2 or 4 or 6 or 8"),
    ],
)
def test_an_order_that_the_scheme_lacks_is_refused(name, order, allowed) -> None:
    with pytest.raises(InputError, match=f"order is .*; for scheme '{name}' it must be {allowed}\\."):
        get_scheme(name, order)


def test_networks_refuse_the_other_schemes() -> None:
    from distnum.networks.dense import Network
    from distnum.networks.propagation.objective import Propagation

    for name in ("complex", "forward2", "central6"):
        with pytest.raises(InputError, match=r"scheme is .*; it must be one of forward, backward, central, central4"):
            Propagation(Network([2, 3, 2]), name)
