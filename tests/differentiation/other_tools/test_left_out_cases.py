"""Cases of SciPy and numdifftools whose tests as a whole do not apply to distnum.

Functions, points and tolerances are theirs; each test names the one it stands for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distnum
from distnum.common.errors import InputError, NotFiniteError

SCHEMES: list[dict[str, Any]] = [
    {"scheme": "complex"},
    {"scheme": "central"},
    {"scheme": "central", "order": 4},
    {"scheme": "central", "order": 6},
    {"scheme": "forward", "order": 2},
    {"scheme": "backward", "order": 2},
]
# A derivative that comes with a warning must be right all the same.
pytestmark = pytest.mark.filterwarnings("ignore::distnum.DerivativeWarning")
every_scheme = pytest.mark.parametrize("options", SCHEMES, ids=lambda options: "-".join(map(str, options.values())))


@pytest.mark.parametrize("scheme", ["2-point", "3-point", "cs"])
def test_a_step_given_by_scipy_errs_no_more_than_is_estimated(scheme: str) -> None:
    # SciPy, TestApproxDerivativesDense.test_scalar_scalar_abs_step
    found = distnum.differentiate(np.sinh, 1.0, scheme=scheme, h=1.49e-8)
    assert abs(found.jac - np.cosh(1.0)) <= found.error
    assert found.error <= 1e-6


@pytest.mark.parametrize("scheme", ["forward", "backward", "central"])
@pytest.mark.parametrize("at", [(-1.0, -1.0), (0.5, 0.02), (1.3, 0.7), (1.0, 2.0)])
def test_values_in_single_precision_of_arguments_in_double(scheme: str, at: tuple[float, float]) -> None:
    # SciPy, test_least_squares.py, test_fp32_gh12991: a step that suits the argument alone gives zeros, or nonsense
    t = np.linspace(0, 1, 100, dtype=np.float32)
    expected = np.column_stack([np.ones(100), t])
    found = distnum.differentiate(lambda p: (p[0] + p[1] * t).astype(np.float32), np.array(at), scheme=scheme)
    assert (found.status == distnum.Status.OK).all()
    assert found.jac == pytest.approx(expected, abs=2e-2)
    assert (np.abs(found.jac - expected) <= found.error).mean() >= 0.95
    number = distnum.differentiate(lambda p: np.float32(p[0] + p[1] * 0.3), np.array(at), scheme=scheme)
    assert (np.abs(number.grad - [1, 0.3]) <= number.error).all()
    assert number.grad == pytest.approx([1, 0.3], abs=1e-2)
    # As numbers of float64, of which some are round.
    widened = distnum.differentiate(
        lambda p: (p[0] + p[1] * t).astype(np.float32).astype(np.float64), np.array(at), scheme=scheme
    )
    assert widened.jac == pytest.approx(expected, abs=2e-2)


@every_scheme
@pytest.mark.parametrize("x", [7.6564547238847105, 8.9428143931508, 2.2204460492503134e-14, *range(11)])
def test_the_derivative_of_the_cosine(options: dict[str, Any], x: float) -> None:
    # numdifftools, TestDerivative.test_derivative_of_cos_x
    found = distnum.differentiate(np.cos, x, **options)
    assert found.jac == pytest.approx(-np.sin(x), rel=1e-6, abs=100 * float(found.error) + 1e-14)


@every_scheme
def test_the_cosine_where_it_is_steepest(options: dict[str, Any]) -> None:
    # numdifftools, TestDerivative.test_high_order_derivative_cos
    assert distnum.gradient(np.cos, np.pi / 2, **options) == pytest.approx(-1, abs=1e-4)


@every_scheme
def test_functions_with_further_arguments(options: dict[str, Any]) -> None:
    # numdifftools, TestDerivative.test_fun_with_additional_parameters and test_derivative_with_step_options
    def cube(x: Any, a: float, b: float = 1) -> Any:
        return b * a * x * x * x

    arguments = {"args": (1.0,), "kwargs": {"b": 2}}
    for of_array in (np.ones(1), np.array(1.0)):
        assert distnum.jacobian(cube, of_array, **arguments, **options) == pytest.approx(6)
    # numdifftools is given atol=1e-13; differences of order 2 err by 2 h**2, and their step is 6e-6.
    assert distnum.jacobian(cube, np.zeros(1), **arguments, **options) == pytest.approx(0, abs=2e-9)


@pytest.mark.parametrize("options", SCHEMES[:4], ids=lambda options: "-".join(map(str, options.values())))
def test_squares_at_their_minimum(options: dict[str, Any]) -> None:
    # numdifftools, TestJacobian.test_on_vector_valued_function
    at = np.arange(0, 1, 0.1)
    measured = 1 + 2 * np.exp(0.75 * at)

    def squares(c: Any) -> Any:
        return (c[0] + c[1] * np.exp(c[2] * at) - measured) ** 2

    jac = distnum.jacobian(squares, np.array([1, 2, 0.75]), **options)
    second_order = options == {"scheme": "central"}  # not extrapolated, as numdifftools does
    assert jac == pytest.approx(np.zeros((10, 3)), abs=1e-9 if second_order else 1e-12)


@every_scheme
def test_matrices_of_matrices(options: dict[str, Any]) -> None:
    # numdifftools, TestJacobian.test_on_matrix_valued_function, in the same places as its diagonal
    def powers(x: Any) -> Any:
        return np.array([x[0] ** 2 + x[1] ** 2, x[0] ** 3 + x[1] ** 3])

    x = np.array([(1, 2, 3, 4), (5, 6, 7, 8)], float)
    jac = distnum.jacobian(powers, x, **options)
    assert jac.shape == (2, 4, 2, 4)
    own = np.einsum("ikjk->ijk", jac)
    assert own == pytest.approx(np.array([2 * x, 3 * x**2]))
    assert np.einsum("ikjl->ijkl", jac)[..., ~np.eye(4, dtype=bool)] == pytest.approx(0)
    assert distnum.jacobian(powers, np.array([3.0, 4.0]), **options) == pytest.approx(np.array([[6, 8], [27, 48]]))


def test_a_function_that_is_infinite_is_refused() -> None:
    # numdifftools, TestDerivative.test_infinite_functions
    with pytest.raises(NotFiniteError, match="The function is inf at x itself"):
        distnum.jacobian(lambda x: np.inf * np.ones_like(x), np.zeros(1))


@pytest.mark.parametrize("options", SCHEMES[1:], ids=lambda options: "-".join(map(str, options.values())))
def test_outputs_that_are_not_finite_do_not_change_the_others(options: dict[str, Any]) -> None:
    # numdifftools, test_invalid_outputs.py
    x, valid = np.array([0.5, 1.0, 5.0]), np.array([True, False, True])
    expected = distnum.differentiate(np.exp, x, **options)
    found = distnum.differentiate(lambda x: np.where(valid, np.exp(x), np.nan), x, on_error="nan", **options)
    assert np.isnan(found.jac[1]).all()
    np.testing.assert_array_equal(found.jac[valid], expected.jac[valid])
    np.testing.assert_array_equal(found.error.diagonal()[valid], expected.error.diagonal()[valid])


def test_complex_values_and_points_are_refused_by_the_complex_step() -> None:
    # numdifftools, test_jacobian_complex_validation.py
    with pytest.raises(InputError, match="complex"):
        distnum.jacobian(lambda x: np.sum((1 + 1j) * x**2), np.array([1.0, 2.0]), scheme="complex")
    with pytest.raises(InputError, match="complex"):
        distnum.jacobian(lambda x: np.sum(x**2), np.array([1j, 2.0]), scheme="complex")
