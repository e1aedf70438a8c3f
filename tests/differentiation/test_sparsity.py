"""Jacobians by a pattern: the same numbers as without it, by fewer evaluations; and wrong patterns are named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import least_squares

import distnum
from distnum.common.errors import InputError, NotFiniteError
from distnum.differentiation.judgment.searching import MOST_ROUNDS
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.sparse.sparsity import Sparsity
from distnum.differentiation.summary import DerivativeWarning
from distnum.evaluation.forms import Form

N = 40
X = np.random.default_rng(1).standard_normal(N)
TRIDIAGONAL = sp.diags_array([np.ones(N - 1), np.ones(N), np.ones(N - 1)], offsets=[-1, 0, 1])
RANDOM = sp.csr_array(sp.random(25, N, density=0.05, random_state=2)) + sp.csr_array(
    (np.ones(N), (np.arange(N) % 25, np.arange(N))), shape=(25, N)
)


def tridiagonal(x: Any) -> Any:
    """A function whose rows depend on three neighbors."""
    y = x**3 + x
    y[1:] -= np.sin(x[:-1])
    y[:-1] += x[1:] * x[:-1]
    return y


def of_random(x: Any) -> Any:
    """A function with the pattern ``RANDOM``: each row a sum in a fixed order of its own coordinates."""
    return np.array([sum((k + 1) * np.exp(x[k] / 3) for k in RANDOM[[row]].indices) + 1.5 for row in range(25)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": 4},
        {"order": 8},
        {"scheme": "forward"},
        {"scheme": "backward", "order": 2},
        {"scheme": "complex"},
        {"h": 1e-5},
        {"noise": 1e-9},
        {"bounds": (X - 1e-7, X + 1.0)},
        {"indices": np.arange(3, 20, 2)},
        {"f0": tridiagonal(X)},
        {"workers": ThreadPoolExecutor(2)},
        {"workers": map},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_values_errors_and_statuses_are_those_without_a_pattern(options: dict[str, Any]) -> None:
    dense = distnum.differentiate(tridiagonal, X, **options)
    sparse = distnum.differentiate(tridiagonal, X, sparsity=TRIDIAGONAL, **options)
    rows, columns = TRIDIAGONAL.nonzero()
    for name in ("jac", "error", "status", "h"):
        one = getattr(sparse, name)
        assert isinstance(one, sp.csr_array)
        assert one.shape == (N, N)
        np.testing.assert_array_equal(one.toarray()[rows, columns], getattr(dense, name)[rows, columns], name)
    assert sparse.jac.nnz == 3 * N - 2
    assert sparse.success, sparse.message


def test_the_number_of_evaluations_is_that_of_the_groups() -> None:
    assert distnum.differentiate(tridiagonal, X, sparsity=TRIDIAGONAL).n_evals == 1 + 3 * 2 + 2
    assert distnum.differentiate(tridiagonal, X, sparsity=TRIDIAGONAL, order=4).n_evals == 1 + 3 * 4 + 2
    assert distnum.differentiate(tridiagonal, X, sparsity=TRIDIAGONAL, scheme="forward", f0=tridiagonal(X)).n_evals == 5
    assert distnum.estimate(tridiagonal, X, sparsity=TRIDIAGONAL).evaluations == 9


def test_a_random_pattern_of_any_kind_gives_the_same() -> None:
    dense = distnum.jacobian(of_random, X)
    groups = np.arange(N)
    for pattern in (RANDOM, RANDOM.tocoo(), RANDOM.toarray(), RANDOM.toarray().astype(bool), (RANDOM, groups)):
        sparse = distnum.differentiate(of_random, X, sparsity=pattern)
        np.testing.assert_array_equal(sparse.jac.toarray(), dense)
        assert sparse.success
    assert distnum.differentiate(of_random, X, sparsity=RANDOM).n_evals < N


def test_coordinates_of_a_group_are_independent_and_groups_are_few() -> None:
    for n in (5, 400):
        pattern = sp.diags_array([np.ones(n)] * 5, offsets=[-2, -1, 0, 1, 2], shape=(n, n))
        sparsity = Sparsity.of(pattern, Form.of_array((n,)))
        assert sparsity is not None
        assert sparsity.groups(np.arange(n)).max() + 1 == 5
    sparsity = Sparsity.of(RANDOM, Form.of_array((N,)))
    assert sparsity is not None
    used = np.flatnonzero(RANDOM.sum(axis=0))
    groups = sparsity.groups(used)
    for group in range(groups.max() + 1):
        assert (RANDOM[:, used[groups == group]] != 0).sum(axis=1).max() == 1


def test_a_wrong_pattern_is_named_where_the_group_has_no_other_coordinate_of_the_row() -> None:
    pattern = TRIDIAGONAL.tolil()
    pattern[17, :] = 0
    with pytest.warns(DerivativeWarning, match=r"wrong in 1 of 40 rows: fun\[17\] depends on coordinates outside"):
        derivative = distnum.differentiate(tridiagonal, X, sparsity=pattern)
    assert not derivative.success


def test_a_wrong_pattern_is_found_where_the_entries_of_others_look_right() -> None:
    pattern = sp.lil_array((N, N))
    pattern.setdiag(1)  # one group: what the neighbors change is in the diagonal
    with pytest.warns(DerivativeWarning, match=r"wrong in 40 of 40 rows: fun\[0\].* and 35 more depend"):
        derivative = distnum.differentiate(tridiagonal, X, sparsity=pattern)
    assert (derivative.status.data == Status.PATTERN).all()
    pattern = TRIDIAGONAL.tolil()
    pattern[30, 31] = pattern[8, 7] = 0
    groups = np.arange(N) % 2 + 2 * (np.arange(N) % 5)
    groups[[31, 7]] = groups[[29, 9]]
    with pytest.warns(DerivativeWarning, match=r"2 of 40 rows: fun\[8\], fun\[30\] depend"):
        derivative = distnum.differentiate(tridiagonal, X, sparsity=(pattern, groups))
    assert set(derivative.status.nonzero()[0]) == {8, 30}


def test_coordinates_that_the_pattern_calls_unused_are_looked_at() -> None:
    pattern = TRIDIAGONAL.tolil()
    pattern[:, 5] = 0
    with pytest.warns(DerivativeWarning, match=r"fun\[4\], fun\[5\], fun\[6\] depend"):
        distnum.jacobian(tridiagonal, X, sparsity=pattern)


def test_outputs_that_must_not_change_are_looked_at_where_every_coordinate_is_moved_by_itself() -> None:
    pattern = TRIDIAGONAL.tolil()
    pattern[17, 18] = 0
    with pytest.warns(DerivativeWarning, match=r"wrong in 1 of 40 rows: fun\[17\] depends"):
        derivative = distnum.differentiate(tridiagonal, X, sparsity=(pattern, np.arange(N)))
    assert derivative.n_evals == 1 + 2 * N + 1  # no direction, but the function could be random


@pytest.mark.parametrize("noise", [1e-9, 1e-12])
def test_a_random_function_is_not_taken_for_a_wrong_pattern(noise: float) -> None:
    random = np.random.default_rng(0)
    with pytest.warns(DerivativeWarning, match="returned different values") as caught:
        distnum.jacobian(lambda x: tridiagonal(x) + noise * random.standard_normal(N), X, sparsity=TRIDIAGONAL)
    assert "sparsity is wrong" not in str(caught[0].message)


def test_coordinates_that_the_stencil_does_not_settle_are_searched_together() -> None:
    def steep(x: Any) -> Any:  # the default step is far too large
        return tridiagonal(x * 1e4)

    x = X * 1e-4
    dense, sparse = (distnum.differentiate(steep, x, sparsity=one) for one in (None, TRIDIAGONAL))
    np.testing.assert_allclose(sparse.jac.toarray(), dense.jac, rtol=5e-3)
    assert sparse.success
    n_shared = sum(one.name.startswith("(group") for one in sparse.evaluations())
    assert 3 * 2 < n_shared <= 3 * (2 + 2 * MOST_ROUNDS)
    assert sparse.n_evals < dense.n_evals / 2


def test_kinks_keep_their_slopes() -> None:
    with pytest.warns(DerivativeWarning, match=r"KINK.*worst fun\[1\] by x\[1\]"):
        derivative = distnum.differentiate(
            lambda x: np.abs(x) + 2 * x, np.array([1.0, 0.0, 2.0]), sparsity=np.eye(3), workers=0
        )
    left, right = (side.toarray() for side in derivative.slopes)
    assert (left[1, 1], right[1, 1]) == pytest.approx((1, 3))
    assert np.isnan(left[0, 0])


def fails_above(x: Any) -> Any:
    if x[7] > X[7] or x[20] > X[20]:
        raise ValueError("outside")
    return tridiagonal(x)


def test_a_point_that_fails_costs_the_coordinates_that_it_fails_for_only() -> None:
    true = distnum.jacobian(tridiagonal, X)
    with pytest.warns(DerivativeWarning, match="could not be confirmed"):
        one_sided = distnum.differentiate(fails_above, X, sparsity=TRIDIAGONAL, on_error="one-sided")
    np.testing.assert_allclose(one_sided.jac.toarray(), true, rtol=1e-4, atol=1e-9)
    assert set(one_sided.status.nonzero()[1]) == {7, 20}
    with pytest.warns(DerivativeWarning, match="FAILED"):
        nan = distnum.differentiate(fails_above, X, sparsity=TRIDIAGONAL, on_error="nan")
    assert np.isnan(nan.jac.toarray()).sum() == 6
    names = {failure.name for failure in nan.failures}
    assert {"x[7]", "x[20]"} <= names


def test_failures_are_raised_and_say_where() -> None:
    with pytest.raises(ValueError, match="outside") as raised:
        distnum.jacobian(fails_above, X, sparsity=TRIDIAGONAL)
    assert "coordinates of group" in str(raised.value.__cause__) or "group" in "".join(
        getattr(raised.value, "__notes__", [])
    )
    with pytest.raises(NotFiniteError):
        distnum.jacobian(lambda x: np.where(x == X, x, np.nan), X, sparsity=sp.eye(N))


def test_dicts_get_blocks_by_name() -> None:
    def fun(p: Any) -> Any:
        return {"sum": p["a"] * 2.0 + p["b"], "first": p["a"][0] ** 2}

    p = {"a": np.array([[1.0, 2.0]]).reshape(2), "b": np.array([3.0, 4.0])}
    pattern = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]])
    jac = distnum.jacobian(fun, p, sparsity=pattern)
    np.testing.assert_allclose(jac["sum"]["a"].toarray(), [[2, 0], [0, 2]], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(jac["first"]["b"].toarray(), [[0, 0]])
    np.testing.assert_allclose(jac["first"]["a"].toarray(), [[2, 0]], rtol=1e-7)


def test_single_precision_and_complex_values_work() -> None:
    jac = distnum.jacobian(lambda x: x * x, X.astype(np.float32), sparsity=sp.eye(N))
    assert jac.dtype == np.float32
    np.testing.assert_allclose(jac.diagonal(), 2 * X, rtol=1e-2, atol=1e-3)
    jac = distnum.jacobian(lambda x: np.exp(1j * x), X, sparsity=sp.eye(N))
    np.testing.assert_allclose(jac.diagonal(), 1j * np.exp(1j * X), rtol=1e-8)


def test_a_deadline_leaves_what_is_missing() -> None:
    with pytest.warns(DerivativeWarning, match="40 of 40 coordinates are missing"):
        derivative = distnum.differentiate(
            tridiagonal, X, sparsity=TRIDIAGONAL, f0=tridiagonal(X), deadline=1e-9, order=8, workers=map
        )
    assert (derivative.status.data == Status.MISSING).sum() == 3 * N - 2


@pytest.mark.parametrize("width", [0.0, 1e-9, 1e-7, 1.0])
def test_bounds_are_never_crossed_also_along_the_direction(width: float) -> None:
    lower, upper = X - width, X + np.where(np.arange(N) % 2, 1.0, 1e-5)
    lower[::3], upper[::3] = X[::3] - 1.0, X[::3]

    def inside(x: Any) -> Any:
        assert (x >= lower).all()
        assert (x <= upper).all()
        return tridiagonal(x)

    derivative = distnum.differentiate(inside, X, sparsity=TRIDIAGONAL, bounds=(lower, upper))
    assert derivative.success, derivative.message
    np.testing.assert_allclose(derivative.jac.toarray(), distnum.jacobian(tridiagonal, X), rtol=1e-5, atol=1e-7)


def test_one_sided_schemes_move_to_their_side_only() -> None:
    def above(x: Any) -> Any:
        assert (x >= X).all()
        return tridiagonal(x)

    assert distnum.differentiate(above, X, sparsity=TRIDIAGONAL, scheme="forward").success


def test_an_optimizer_takes_the_jacobian() -> None:
    jac = distnum.jacobian_of(tridiagonal, sparsity=TRIDIAGONAL)
    assert least_squares(tridiagonal, X, jac=jac, tr_solver="lsmr").cost < 1e-12


def test_many_columns_are_no_matter() -> None:
    n = 20_000
    pattern = sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
    x = np.linspace(0.5, 1, n)
    derivative = distnum.differentiate(tridiagonal, x, sparsity=pattern)
    assert derivative.n_evals == 9
    assert derivative.jac.nnz == 3 * n - 2


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (np.ones((N, 3)), "3 columns, but x has 40 numbers"),
        (np.ones((3, N)), "3 rows, but fun"),
        (np.zeros(N, int), "Groups alone"),
        (np.zeros((N, N)), "no entries"),
        ("tridiagonal", "must be an array or a sparse matrix"),
        (np.ones((2, N, 1)), "shape"),
        ([[1, 2], [3]], "must be an array"),
        ((TRIDIAGONAL, np.zeros(N, int)), r"x\[0\] and x\[1\] in the same group"),
        ((TRIDIAGONAL, np.zeros(3, int)), "one whole number for each"),
        ((TRIDIAGONAL, np.zeros(N)), "one whole number for each"),
    ],
)
def test_what_is_no_pattern_is_refused(sparsity: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distnum.jacobian(tridiagonal, X, sparsity=sparsity)


def test_checks_of_gradients_refuse_a_pattern() -> None:
    with pytest.raises(InputError, match="sparsity is for"):
        distnum.check_gradient(lambda x: float(x @ x), lambda x: 2 * x, X, sparsity=np.ones((1, N)))
    gradient = distnum.gradient(lambda x: float(x[0] ** 2), X, sparsity=np.eye(1, N))
    np.testing.assert_allclose(gradient[:2], [2 * X[0], 0], rtol=1e-7)
