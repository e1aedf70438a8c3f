"""``differentiate``: never silently wrong, at the cost of the stencil alone where the function is healthy."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import distnum
from distnum import DerivativeWarning, InputError, Status
from distnum.common.errors import NotFiniteError
from distnum.differentiation.judgment.status import SETTLED
from distnum.evaluation.in_process import InProcess
from tests.differentiation.zoo import HEALTHY, ZOO, Animal, rough

SCHEMES = {
    "forward": {"scheme": "forward"},
    "forward2": {"scheme": "forward", "order": 2},
    "backward": {"scheme": "backward"},
    "backward2": {"scheme": "backward", "order": 2},
    "central": {"scheme": "central"},
    "central4": {"scheme": "central", "order": 4},
    "central6": {"scheme": "central", "order": 6},
    "central8": {"scheme": "central", "order": 8},
}
POINTS = {"forward": 1, "backward": 1, "forward2": 2, "backward2": 2, "central": 2, "central4": 4, "central6": 6} | {
    "central8": 8
}


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return self.function(x)


def quiet(function: Callable[..., Any], x: Any, **options: Any) -> distnum.Derivative:
    """``differentiate``, and the assertion that exactly what is not settled is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with np.errstate(all="ignore"):
            derivative = distnum.differentiate(function, x, **options)
    texts = [str(one.message) for one in caught if issubclass(one.category, DerivativeWarning)]
    assert texts == ([] if derivative.success else [derivative.message])
    settled = np.isin(derivative.entries.status, SETTLED)
    assert settled.all() or not derivative.success
    return derivative


def silently_wrong(animal: Animal, derivative: distnum.Derivative, x: Any) -> list[str]:
    """Entries that are said to be settled, but are off by more than their error and by more than one percent."""
    entries = derivative.entries
    assert entries.error is not None
    true = np.reshape(np.asarray(animal.true(x), np.float64), entries.derivative.shape)
    settled = np.isin(entries.status, (Status.OK, Status.ONE_SIDED))
    with np.errstate(invalid="ignore"):
        right = np.abs(entries.derivative - true) <= np.maximum(entries.error, 1e-2 * np.abs(true))
    return [
        f"{entries.derivative[place]:g} +- {entries.error[place]:g} in place of {true[place]:g}"
        for place in zip(*np.nonzero(settled & ~right), strict=True)
    ]


class TestZoo:
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_no_entry_is_silently_wrong(self, scheme: str, dtype: type) -> None:
        wrong, costly = {}, {}
        for name, animal in ZOO.items():
            x, function = np.array(animal.x, dtype), Counted(animal.fun)
            derivative = quiet(function, x, **SCHEMES[scheme], on_error="one-sided")
            found = silently_wrong(animal, derivative, x)
            if found and not {scheme, dtype.__name__, f"{scheme} {dtype.__name__}"} & set(animal.unseen):
                wrong[name] = found
            # The stencil, fun(x) twice, and at most six points for each coordinate.
            if function.calls > (POINTS[scheme] + 6) * len(x) + 2:
                costly[name] = function.calls
        assert not wrong
        assert not costly

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_healthy_functions_cost_the_stencil_and_the_base_point(self, scheme: str, dtype: type) -> None:
        calls = {}
        for name, animal in HEALTHY.items():
            x, function = np.array(animal.x, dtype), Counted(animal.fun)
            derivative = quiet(function, x, **SCHEMES[scheme])
            assert derivative.success
            assert derivative.n_evals == function.calls
            if function.calls != POINTS[scheme] * len(x) + 1:
                calls[name] = function.calls
        assert not calls

    @pytest.mark.parametrize("name", ZOO)
    def test_adaptive_steps_are_not_silently_wrong_either(self, name: str) -> None:
        animal = ZOO[name]
        x, function = np.array(animal.x), Counted(animal.fun)
        derivative = quiet(function, x, h="adaptive", on_error="one-sided")
        assert not silently_wrong(animal, derivative, x)
        assert function.calls <= 8 * len(x) + 2

    def test_points_stay_near(self) -> None:
        x, farthest = np.array([0.0, -5.0]), np.zeros(2)

        def function(moved: np.ndarray) -> float:
            farthest[:] = np.maximum(farthest, np.abs(moved - x))
            return 3.0

        quiet(function, x)
        assert (farthest <= [0.401, 2.01]).all()

    def test_steps_above_the_noise_are_found(self) -> None:
        found = wrong = 0
        for x in np.linspace(0.2, 1.2, 20):
            derivative = quiet(lambda z: math.sin(z[0]) + 1e-6 * rough(z[0]), np.array([x]))
            found += derivative.success
            wrong += derivative.success and abs(derivative.grad[0] - math.cos(x)) > 3 * derivative.error[0]
        assert found >= 12
        assert wrong <= 1  # noise at three points may look like a straight line by chance

    def test_many_healthy_coordinates_cost_one_more_evaluation(self) -> None:
        function = Counted(lambda x: float(np.sin(x).sum()))
        assert quiet(function, np.linspace(0.1, 1, 150)).n_evals == function.calls == 302


class TestKinks:
    def test_both_slopes_are_kept(self) -> None:
        derivative = quiet(lambda x: max(0.0, x[0]) + 3 * x[0] + x[1] ** 2, np.array([0.0, 2.0]))
        assert derivative.status.tolist() == [Status.KINK, Status.OK]
        left, right = derivative.slopes
        assert left[0] == pytest.approx(3)
        assert right[0] == pytest.approx(4)
        assert np.isnan([left[1], right[1], derivative.error[0]]).all()
        assert "x[0] (3 to the left, 4 to the right)" in derivative.message

    def test_a_small_kink_beside_a_large_derivative_of_another_coordinate(self) -> None:
        derivative = quiet(lambda x: 1e-3 * abs(x[0]) + 1e3 * x[1], np.array([0.0, 1.0]))
        assert derivative.status.tolist() == [Status.KINK, Status.OK]

    def test_a_kink_of_one_output(self) -> None:
        derivative = quiet(lambda x: np.array([abs(x[0]), x[0]]), np.array([0.0]))
        assert derivative.status.tolist() == [[Status.KINK], [Status.OK]]
        assert "fun[0] by x[0]" in derivative.message

    def test_a_jump(self) -> None:
        derivative = quiet(lambda x: float(x[0] >= 1) + x[0], np.array([1.0]))
        assert derivative.status.tolist() == [Status.JUMP]


class TestGivenStep:
    """A step that is given is kept, and judged."""

    def test_good_steps(self) -> None:
        function = Counted(lambda x: float(np.sin(x).sum()))
        derivative = quiet(function, np.array([0.5, 1.0]), h=np.array([1e-5, 1e-6]))
        assert derivative.h == pytest.approx([1e-5, 1e-6], rel=1e-6)
        assert function.calls == 5

    @pytest.mark.parametrize("h", [0.5, 2e-15])
    def test_a_bad_step_is_kept_and_a_better_one_is_named(self, h: float) -> None:
        derivative = quiet(lambda x: math.exp(3 * x[0]), np.array([1.0]), h=h)
        given = (math.exp(3 * (1 + h)) - math.exp(3 * (1 - h))) / (2 * h)
        assert derivative.status.tolist() == [Status.STEP]
        assert derivative.grad[0] == pytest.approx(given, rel=1e-3)
        assert derivative.h[0] == pytest.approx(h, rel=1e-3)
        assert abs(derivative.grad[0] - 3 * math.exp(3)) <= derivative.error[0]
        better = float(derivative.message.split("; h = ")[1].split(" ")[0])
        assert distnum.gradient(lambda x: math.exp(3 * x[0]), np.array([1.0]), h=better) == pytest.approx(
            3 * math.exp(3), rel=1e-2
        )

    def test_noise(self) -> None:
        derivative = quiet(lambda x: 1e16 + x[0], np.array([1.0]), h=1e-3)
        assert derivative.status.tolist() == [Status.NOISE]

    def test_kink(self) -> None:
        derivative = quiet(lambda x: abs(x[0]), np.array([0.0]), h=1e-3)
        assert derivative.status.tolist() == [Status.KINK]

    @pytest.mark.parametrize(
        "h", [0, -1e-6, math.nan, math.inf, "small", [1e-6], np.full((2, 2), 1e-6), [1e-6, 0.0], None.__class__]
    )
    def test_what_cannot_be_a_step_is_refused(self, h: Any) -> None:
        with pytest.raises(InputError, match=r"\bh\b"):
            distnum.differentiate(lambda x: float(x @ x), np.ones(2), h=h)


class TestBounds:
    def test_no_point_is_outside(self) -> None:
        lower, upper = np.array([0.0, 1.0, -np.inf]), np.array([1.0, 1.5, 2.0])

        def inside(x: np.ndarray) -> float:
            assert (x >= lower).all()
            assert (x <= upper).all()
            return float(np.exp(x).sum()) + 1e9  # the constant makes a search necessary

        x = np.array([0.0, 1.5, 2.0 - 1e-7])
        for options in SCHEMES.values():
            derivative = quiet(inside, x, bounds=(lower, upper), **options)
            assert (np.abs(derivative.grad - np.exp(x)) <= np.maximum(derivative.error, 0.02)).all()
            assert derivative.success

    def test_sides_are_named(self) -> None:
        derivative = quiet(lambda x: math.exp(x[0]), np.array([0.0]), bounds=(0, None))
        assert derivative.status.tolist() == [Status.ONE_SIDED]
        assert derivative.grad == pytest.approx([1.0], rel=1e-7)


class TestOptions:
    def test_indices(self) -> None:
        function = Counted(lambda x: float((x**3).sum()))
        derivative = quiet(function, np.array([1.0, 2.0, 3.0]), indices=[2, 0])
        assert derivative.grad[[0, 2]] == pytest.approx([3, 27])
        assert np.isnan(derivative.grad[1])
        assert derivative.entries.status[0].tolist() == [Status.OK, Status.MISSING, Status.OK]
        assert function.calls == 5

    def test_the_value_at_x_is_not_evaluated_again(self) -> None:
        function = Counted(lambda x: float(x @ x))
        derivative = quiet(function, np.array([1.0, 2.0]), f0=5.0)
        assert function.calls == 4
        assert derivative.value == 5
        assert derivative.grad == pytest.approx([2, 4])

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_that_is_stated(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = np.linspace(0.5, 1.5, 20)
        derivative = quiet(lambda x: float(np.exp(x).sum()) + 1e-4 * rng.standard_normal(), x, noise=1e-4)
        settled = derivative.status == Status.OK
        covered = np.abs(derivative.grad - np.exp(x)) <= derivative.error
        assert settled.mean() > 0.5
        assert covered[settled].mean() > 0.8

    def test_noise_of_each_output(self) -> None:
        rng = np.random.default_rng(1)

        def function(x: np.ndarray) -> np.ndarray:
            return np.array([math.sin(x[0]) + 1e-5 * rng.standard_normal(), 1e3 * math.exp(x[0])])

        derivative = quiet(function, np.array([1.0]), noise=np.array([1e-5, 0.0]))
        true = np.array([[math.cos(1)], [1e3 * math.exp(1)]])
        assert derivative.success
        assert (np.abs(derivative.jac - true) <= np.maximum(derivative.error, 1e-2 * true)).all()

    def test_noise_is_estimated(self) -> None:
        derivative = quiet(lambda x: math.sin(x[0]) + 1e-6 * rough(x[0]), np.array([1.0]), noise="estimate")
        assert abs(derivative.grad[0] - math.cos(1)) <= derivative.error[0] < 0.05

    @pytest.mark.parametrize("noise", [-1, math.nan, "loud", [1.0, 2.0]])
    def test_what_cannot_be_noise_is_refused(self, noise: Any) -> None:
        with pytest.raises(InputError, match="noise"):
            distnum.differentiate(lambda x: float(x @ x), np.ones(2), noise=noise)

    def test_forms_of_x(self) -> None:
        x = {"a": 2.0, "b": [np.array([[1.0, 2.0]]), (3.0, np.array([4.0]))]}
        derivative = quiet(
            lambda p: p["a"] ** 2 * float(p["b"][0].sum()) + p["b"][1][0] ** 3 * float(p["b"][1][1][0]), x
        )
        assert derivative.grad["a"] == pytest.approx(12)
        assert derivative.grad["b"][0] == pytest.approx(np.array([[4.0, 4.0]]))
        assert derivative.grad["b"][1][0] == pytest.approx(108)
        assert derivative.grad["b"][1][1] == pytest.approx([27.0])
        assert derivative.status["b"][0].shape == (1, 2)

    def test_a_dict_of_values(self) -> None:
        derivative = quiet(lambda x: {"s": float(x @ x), "v": 2 * x}, np.array([1.0, 2.0]))
        assert derivative.jac["s"] == pytest.approx([2.0, 4.0])
        assert derivative.jac["v"] == pytest.approx(2 * np.eye(2))

    def test_complex_values(self) -> None:
        derivative = quiet(lambda x: np.exp(1j * x[0]), np.array([0.3]))
        assert derivative.success
        assert derivative.grad == pytest.approx([1j * np.exp(0.3j)])

    def test_complex_step(self) -> None:
        function = Counted(lambda x: np.exp(x[0]) / x[1])
        derivative = quiet(function, np.array([0.3, 2.0]), scheme="complex")
        assert derivative.grad == pytest.approx([math.exp(0.3) / 2, -math.exp(0.3) / 4], rel=1e-15)
        assert function.calls == 3

    def test_jacobian_of_very_different_outputs(self) -> None:
        def function(x: np.ndarray) -> np.ndarray:
            return np.array([1e-20 * math.sin(x[0]), 1e20 * math.exp(x[1]), x[0] * x[1], 0.0])

        x = np.array([0.7, 1.3])
        true = [[1e-20 * math.cos(0.7), 0], [0, 1e20 * math.exp(1.3)], [1.3, 0.7], [0, 0]]
        assert np.allclose(quiet(function, x).jac, true, rtol=1e-8, atol=0)

    @pytest.mark.parametrize("constant", [1234567.0, 3.14159274101257324, 299792458.0, 0.1, 123456790528.0])
    def test_an_output_that_never_changes_is_no_fault(self, constant: float) -> None:
        function = Counted(lambda x: np.array([constant, *np.sin(x)]))
        derivative = quiet(function, np.array([0.7, 1.3, 1.4]))
        assert derivative.success
        assert not derivative.jac[0].any()


class TestFunctionsThatCannotBeDifferentiated:
    def test_one_that_draws_random_numbers_is_named(self) -> None:
        rng = np.random.default_rng(0)
        derivative = quiet(lambda x: x[0] ** 2 + 1e-3 * rng.standard_normal(), np.array([1.0]))
        assert "returned different values for the same point" in derivative.message

    def test_one_that_draws_few_random_numbers_is_named_if_there_are_many_coordinates(self) -> None:
        rng = np.random.default_rng(0)
        derivative = quiet(lambda x: float(x @ x) + 1e-12 * rng.standard_normal(), np.linspace(1, 2, 300))
        assert "returned different values for the same point" in derivative.message

    def test_one_that_does_not_use_its_argument_is_named(self) -> None:
        array = np.ones(3)
        derivative = quiet(lambda x: float(array @ array), array)
        assert (derivative.status == Status.UNCHANGED).all()
        assert "does it use its argument?" in derivative.message

    def test_a_coordinate_that_is_not_used_is_named_and_no_fault(self) -> None:
        function = Counted(lambda x: x[0] ** 2)
        derivative = quiet(function, np.array([1.0, 1.0]))
        assert derivative.success
        assert derivative.status.tolist() == [Status.OK, Status.UNCHANGED]
        assert "1 of 2 coordinates do not change" in derivative.message
        assert "x[1]" in derivative.message
        assert function.calls == 5 + 2

    def test_one_of_which_only_a_coordinate_that_is_not_used_is_asked_for_is_named(self) -> None:
        derivative = quiet(lambda x: x[0] ** 2, np.array([1.0, 1.0]), indices=[1])
        assert "does it use its argument?" in derivative.message


def fails_below(x: np.ndarray) -> float:
    if x[0] < 1:
        raise ValueError("below one")
    return float(x[0] ** 2 * x[1])


def nan_below(x: np.ndarray) -> float:
    return float(x[0] ** 2 * x[1]) if x[0] >= 1 else math.nan


def fails_around(x: np.ndarray) -> float:
    if x[0] != 1:
        raise ValueError("not one")
    return float(x[1] ** 2)


class TestOnError:
    x = np.array([1.0, 3.0])

    def test_an_exception_is_raised(self) -> None:
        with pytest.raises(ValueError, match="below one"):
            distnum.differentiate(fails_below, self.x)

    @pytest.mark.parametrize("function", [fails_below, nan_below])
    def test_one_sided(self, function: Callable[..., Any]) -> None:
        derivative = quiet(function, self.x, on_error="one-sided")
        assert derivative.status.tolist() == [Status.ONE_SIDED, Status.OK]
        assert derivative.grad == pytest.approx([6, 1], rel=1e-6)

    @pytest.mark.parametrize("function", [fails_below, nan_below])
    def test_nan(self, function: Callable[..., Any]) -> None:
        counted = Counted(function)
        derivative = quiet(counted, self.x, on_error="nan")
        assert np.isnan(derivative.grad[0])
        assert derivative.grad[1] == pytest.approx(1)
        assert derivative.status.tolist() == [Status.FAILED, Status.OK]
        assert counted.calls == 5

    def test_values_are_looked_for_nearer_and_on_the_other_side_even_with_raise(self) -> None:
        derivative = quiet(nan_below, self.x)
        assert derivative.status.tolist() == [Status.ONE_SIDED, Status.OK]

    def test_no_value_on_either_side(self) -> None:
        derivative = quiet(fails_around, self.x, on_error="one-sided")
        assert derivative.status.tolist() == [Status.FAILED, Status.OK]
        assert len(derivative.failures) >= 2
        assert derivative.failures[0].name == "x[0]"
        assert "not one" in derivative.failures[0].failure.text

    @pytest.mark.parametrize("on_error", ["raise", "one-sided", "nan"])
    def test_not_finite_at_x(self, on_error: str) -> None:
        with pytest.raises(NotFiniteError, match="at x itself"):
            distnum.differentiate(lambda x: math.nan, self.x, on_error=on_error)

    def test_an_output_that_is_not_finite_at_x_is_named(self) -> None:
        with pytest.raises(NotFiniteError, match=r"nan at x itself, in fun\['b'\]\[1\].*on_error='nan'"):
            distnum.differentiate(lambda x: {"a": x[0], "b": np.array([x[1], math.nan])}, self.x)

    def test_exceptions_at_points_that_only_a_search_takes_are_survived(self) -> None:
        def function(x: np.ndarray) -> float:
            if abs(x[0] - 0.5) > 1e-3:
                raise ValueError("too far away")
            return 1e10 + math.log(x[0])

        derivative = quiet(function, np.array([0.5]))
        assert derivative.status.tolist() == [Status.OK]
        assert abs(derivative.grad[0] - 2) <= derivative.error[0] < 0.2
        assert derivative.failures[0].failure.text == "ValueError: too far away"

    def test_a_domain_smaller_than_the_step(self) -> None:
        derivative = quiet(lambda x: math.sqrt(1e-16 - x[0] ** 2) + x[0], np.array([0.0]), on_error="one-sided")
        assert derivative.status.tolist() == [Status.OK]
        assert derivative.grad == pytest.approx([1], rel=1e-2)


def one_undefined(x: np.ndarray) -> np.ndarray:
    """Outputs of which the second has no value; the others need a search, have a kink, are smooth or at a minimum."""
    parts = [1e6 + math.sin(x[0]), math.nan, abs(x[1]), float(np.exp(x).sum()), float(x[2:] @ x[2:])]
    return np.array(parts)


class TestOutputsThatAreNotFiniteAtX:
    x = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    true = np.zeros((4, 6))
    true[0, 0], true[1, 1], true[2] = math.cos(0.5), math.nan, np.exp(x)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"order": 4},
            {"scheme": "forward"},
            {"h": "adaptive"},
            {"h": 1e-5},
            {"noise": 1e-9},
            {"noise": "estimate"},
            {"sparsity": np.ones((5, 6))},
            {"f0": one_undefined(x)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("on_error", ["one-sided", "nan"])
    def test_only_their_entries_fail(self, on_error: str, options: dict[str, Any]) -> None:
        derivative = quiet(one_undefined, self.x, on_error=on_error, **options)
        assert "not finite at x itself in 1 of 5 outputs: fun[1]." in derivative.message
        assert not derivative.success
        dense = derivative.jac.toarray() if "sparsity" in options else derivative.jac
        status = derivative.status.toarray() if "sparsity" in options else derivative.status
        assert (status[1] == Status.FAILED).all()
        assert np.isnan(dense[1]).all()
        others = [0, 2, 3, 4]
        assert not (status[others] == Status.FAILED).any()
        settled = np.isin(status[others], SETTLED)
        assert settled.mean() > 0.7
        error = derivative.error.toarray() if "sparsity" in options else derivative.error
        right = np.abs(dense[others] - self.true) <= np.maximum(1e-2 * np.abs(self.true), 3 * error[others])
        assert right[settled & np.isfinite(self.true)].all()

    def test_they_cost_no_search(self) -> None:
        function = Counted(lambda x: np.array([math.nan, *np.exp(x)]))
        assert quiet(function, np.ones(5), on_error="one-sided").n_evals == function.calls == 11

    def test_minima_are_told_from_kinks_by_moving_all_together(self) -> None:
        function = Counted(lambda x: np.array([float(x @ x), math.nan]))
        derivative = quiet(function, np.zeros(50), on_error="one-sided")
        assert function.calls == 101 + 1 + 4
        assert (derivative.status[0] == Status.OK).all()

    def test_a_random_function_is_still_found(self) -> None:
        rng = np.random.default_rng(0)
        derivative = quiet(
            lambda x: np.array([x[0] ** 2 + 1e-3 * rng.standard_normal(), math.nan]), np.ones(1), on_error="nan"
        )
        assert "returned different values for the same point" in derivative.message
        assert "nan apart" not in derivative.message

    def test_steps_by_stated_noise_are_those_of_the_other_outputs(self) -> None:
        with_nan = quiet(lambda x: np.array([*np.exp(x), math.nan]), np.ones(2), on_error="nan", noise=1e-6)
        without = quiet(lambda x: np.exp(x), np.ones(2), noise=1e-6)
        assert with_nan.h[:2].tolist() == without.h.tolist()


def test_a_deadline_returns_what_is_there() -> None:
    def slow(x: np.ndarray) -> float:
        time.sleep(0.02)
        return float(x @ x)

    with pytest.warns(DerivativeWarning, match="coordinates are missing"):
        derivative = distnum.differentiate(slow, np.ones(200), deadline=0.5)
    missing = derivative.status == Status.MISSING
    assert 0 < missing.sum() < 200
    assert np.isnan(derivative.grad[missing]).all()
    assert derivative.grad[~missing] == pytest.approx(2.0)
    assert not derivative.success


class Shuffled:
    """A backend that yields outcomes in a random order, so many at a time."""

    n_workers = 1

    def __init__(self, seed: int, size: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._size = size

    def evaluate(self, *arguments: Any) -> Iterator[Any]:
        for all_of in InProcess().evaluate(*arguments):
            order = self._rng.permutation(len(all_of.numbers))
            for start in range(0, len(order), self._size):
                some = order[start : start + self._size]
                numbers = all_of.numbers[some]
                failures = {number: why for number, why in all_of.failures.items() if number in numbers}
                yield replace(
                    all_of, numbers=numbers, values=all_of.values[some], seconds=all_of.seconds[some], failures=failures
                )


def rough_jacobian(x: np.ndarray) -> np.ndarray:
    """Some coordinates are searched: by rounding, a kink, oscillation, a missing value."""
    if x[3] < 1:
        raise ValueError
    return np.array(
        [1e10 + x[0], math.sin(1e5 * x[1]) + abs(x[2]), x[3] ** 2, float(np.sin(x).sum()), round(float(x.sum()), 4)]
    )


@pytest.mark.parametrize("options", [{}, {"order": 4}, {"scheme": "forward"}, {"h": "adaptive"}, {"h": 1e-3}])
def test_the_order_of_outcomes_changes_no_bit(options: dict[str, Any]) -> None:
    x = np.concatenate([[0.4, 0.3, 0.0, 1.0], np.linspace(0.1, 2, 300)])
    plain = quiet(rough_jacobian, x, on_error="one-sided", **options)
    for seed, size in enumerate((1, 7, 10_000)):
        other = quiet(rough_jacobian, x, on_error="one-sided", workers=Shuffled(seed, size), **options)
        for name in ("derivative", "error", "status", "h"):
            assert getattr(other.entries, name).tobytes() == getattr(plain.entries, name).tobytes()
        assert other.message == plain.message
        assert other.entries.slopes == plain.entries.slopes


@pytest.mark.parametrize("options", [{}, {"order": 4}, {"order": 8}, {"scheme": "forward"}])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_size_of_blocks_changes_no_bit(size: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([[0.4, 0.3, 0.0, 1.0], np.linspace(0.1, 2, 300)])
    plain = quiet(rough_jacobian, x, on_error="one-sided", **options)
    monkeypatch.setattr("distnum.differentiation.blocks._MOST_COORDINATES", size)
    other = quiet(rough_jacobian, x, on_error="one-sided", **options)
    for name in ("derivative", "error", "status", "h"):
        assert getattr(other.entries, name).tobytes() == getattr(plain.entries, name).tobytes()


def test_a_coordinate_has_the_same_bits_alone() -> None:
    x = np.linspace(0.1, 2, 50)
    for order in (2, 4, 8):
        together = quiet(lambda z: np.exp(np.outer(z, [1, 2, 3])).sum(axis=0), x, order=order)
        alone = quiet(lambda z: np.exp(np.outer(z, [1, 2, 3])).sum(axis=0), x, order=order, indices=[17])
        for name in ("derivative", "error", "status", "h"):
            assert getattr(together.entries, name)[:, 17].tobytes() == getattr(alone.entries, name)[:, 17].tobytes(), (
                name
            )


def test_derivatives_beyond_single_precision_are_kept() -> None:
    for factor in (1e300, 1e-290):
        derivative = quiet(lambda x, factor=factor: factor * math.sin(x[0]), np.array([1.0], np.float32))
        assert derivative.grad == pytest.approx([factor * math.cos(1)], rel=1e-4)
    assert quiet(lambda x: math.sin(x[0]), np.array([1.0], np.float32)).grad.dtype == np.float32
