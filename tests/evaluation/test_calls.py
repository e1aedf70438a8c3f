"""Calls of a user's function at points: in this process, on an executor and through a map."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.backends import backend_of
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.forms import Form
from distnum.evaluation.in_process import InProcess
from distnum.evaluation.mapped import Mapped, OnExecutor
from distnum.evaluation.outcomes import Backend, Limits, Outcomes
from distnum.evaluation.points import Points

LIMITS = Limits()


def moves(form_of: Any, indices: list[int], values: list[Any], vectorized: bool = False) -> Callable[..., Any]:
    """A function that evaluates another one at the base point and at moves of single entries."""
    form, base = Form.of(form_of, "x")
    moved = Points.moved(base, np.array(indices), np.array(values))
    points = Points.joined([Points(base, np.empty(0, np.int64), base[:0], np.zeros(2, np.int64)), moved])

    def outcomes(function: Any, backend: Backend | None = None, limits: Limits = LIMITS, **call: Any) -> Outcomes:
        made = FunctionCall(function, form, vectorized=vectorized, **call)
        parts = list((backend or InProcess()).evaluate(made, points, limits, lambda number: f"at point {number}"))
        order = np.argsort(np.concatenate([part.numbers for part in parts]))
        failures = {number: failure for part in parts for number, failure in part.failures.items()}
        width = max(part.values.shape[1] for part in parts)
        values_ = np.concatenate(
            [part.values if part.form else np.full((len(part.numbers), width), np.nan) for part in parts]
        )
        form_ = next((part.form for part in parts if part.form is not None), None)
        retried = {number: count for part in parts for number, count in part.retried.items()}
        return Outcomes(np.arange(len(order)), values_[order], form_, np.zeros(len(order)), failures, retried=retried)

    return outcomes


def sum_of_squares(x: Any) -> float:
    return float((x**2).sum())


def fails_at_three(x: Any) -> float:
    if x[0] == 3:
        raise ZeroDivisionError("no value at three")
    return float(x[0])


@pytest.fixture(params=["in process", "threads", "processes", "map"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "in process":
        yield InProcess()
    elif request.param == "map":
        yield Mapped(map)
    else:
        with (ThreadPoolExecutor if request.param == "threads" else ProcessPoolExecutor)(2) as executor:
            yield OnExecutor(executor)


def test_values_at_the_base_point_and_at_moved_ones(backend: Backend) -> None:
    outcomes = moves(np.array([1.0, 2.0, 3.0]), [0, 2, 1], [5.0, 0.0, 2.5])(sum_of_squares, backend)
    assert outcomes.values[:, 0].tolist() == [14.0, 38.0, 5.0, 16.25]


def test_arguments_have_the_users_form() -> None:
    def function(x: Any, factor: float, *, power: int) -> dict[str, Any]:
        assert type(x["a"]) is float
        assert x["b"][1].shape == (2, 2)
        return {"sum": x["a"] + x["b"][1].sum(), "all": factor * x["b"][0] ** power}

    at = moves({"a": 1.5, "b": [np.arange(2.0), np.ones((2, 2))]}, [0, 3], [2.5, 0.0])
    outcomes = at(function, args=(3.0,), kwargs={"power": 2})
    assert outcomes.values.tolist() == [[5.5, 0, 3], [6.5, 0, 3], [4.5, 0, 3]]


def test_the_value_may_be_the_argument_itself(backend: Backend) -> None:
    outcomes = moves(np.array([1.0, 2.0]), [0, 1], [3.0, 4.0])(_same, backend)
    assert outcomes.values.tolist() == [[1, 2], [3, 2], [1, 4]]


def _same(x: Any) -> Any:
    return x


def test_an_exception_reaches_the_caller_with_its_place(backend: Backend) -> None:
    at = moves(np.array([1.0, 2.0]), [1, 0, 0], [0.0, 3.0, 5.0])
    with pytest.raises(ZeroDivisionError, match="no value at three") as raised:
        at(fails_at_three, backend)
    assert "at point 2" in "".join(getattr(raised.value, "__notes__", [str(raised.value.__cause__)]))


def test_failures_leave_the_other_points(backend: Backend) -> None:
    at = moves(np.array([1.0, 2.0]), [1, 0, 0], [0.0, 3.0, 5.0])
    outcomes = at(fails_at_three, backend, Limits(raises=False, retries=2))
    assert np.array_equal(outcomes.values[:, 0], [1, 1, np.nan, 5], equal_nan=True)
    failure = outcomes.failures[2]
    assert (failure.kind, failure.attempts) == ("exception", 3)
    assert "ZeroDivisionError: no value at three" in failure.text
    assert "fails_at_three" in failure.traceback


def test_a_retry_may_succeed() -> None:
    calls: list[float] = []

    def sometimes(x: Any) -> float:
        calls.append(x[0])
        if len(calls) == 2:
            raise OSError("the licence server is busy")
        return float(x[0])

    outcomes = moves(np.array([1.0]), [0], [2.0])(sometimes, limits=Limits(retries=1))
    assert outcomes.values[:, 0].tolist() == [1, 2]
    assert outcomes.retried == {1: 1}
    assert calls == [1, 2, 2]


def test_a_retry_of_a_vectorized_function_may_succeed() -> None:
    sizes: list[int] = []

    def sometimes(x: Any) -> Any:
        sizes.append(len(x))
        if (x == 2).any() and sizes.count(1) < 3:
            raise OSError("the licence server is busy")
        return x.sum(axis=1)

    at = moves(np.array([1.0]), [0], [2.0], vectorized=True)
    outcomes = at(sometimes, limits=Limits(retries=1))
    assert outcomes.values[:, 0].tolist() == [1, 2]
    assert outcomes.retried == {1: 1}
    assert sizes == [2, 1, 1, 1]
    sizes.clear()
    with pytest.raises(OSError, match="busy"):
        at(sometimes)


@pytest.mark.parametrize("returned", ["text", None, [1, [2]], np.ma.masked_array([1.0], [True]), object()])
def test_what_is_no_value_is_refused(returned: Any) -> None:
    at = moves(np.array([1.0]), [0], [2.0])
    with pytest.raises(InputError, match="must return"):
        at(lambda x: returned)
    assert at(lambda x: returned, limits=Limits(raises=False)).failures[0].kind == "value"


def test_a_value_of_another_form_is_refused() -> None:
    with pytest.raises(InputError, match=r"returned shape \(2,\), where fun\(x\) returned shape \(\)"):
        moves(np.array([1.0]), [0], [2.0])(lambda x: x[0] if x[0] == 1 else np.ones(2))


def _moves_its_argument(x: Any) -> float:
    x *= 2
    return 1.0


def _moves_another_entry(x: Any) -> float:
    if x[0] == 3:
        x[1] = 7.0
    return 1.0


def _rebinds(x: Any) -> float:
    x["a"] = x["a"] * 2
    return 1.0


@pytest.mark.parametrize("function", [_moves_its_argument, _moves_another_entry])
def test_a_function_that_changes_its_argument_is_named(function: Any, backend: Backend) -> None:
    with pytest.raises(InputError, match=r"changes its argument: x\[\d\] was"):
        moves(np.array([1.0, 2.0]), [0, 0], [2.0, 3.0])(function, backend, Limits(raises=False))


def test_a_function_that_rebinds_an_entry_is_named(backend: Backend) -> None:
    with pytest.raises(InputError, match="replaces entries of its argument x"):
        moves({"a": np.array([1.0])}, [0], [2.0])(_rebinds, backend)


def test_a_function_that_ends_the_process_is_a_failure() -> None:
    with pytest.raises(TrainingError, match=r"ended its process: sys\.exit\(3\)"):
        moves(np.array([1.0]), [0], [2.0])(lambda x: exit(3))


def test_vectorized_functions_get_stacks() -> None:
    shapes = []

    def rows(x: Any) -> Any:
        shapes.append(x.shape)
        if (x == 3).any() and len(x) > 1:
            raise ValueError("one of them cannot be evaluated")
        return {"sum": x.sum(axis=(1, 2)), "first": x[:, 0]}

    at = moves(np.ones((2, 2)), [0, 3], [2.0, 5.0], vectorized=True)
    assert at(rows).values.tolist() == [[4, 1, 1], [5, 2, 1], [8, 1, 1]]
    assert shapes == [(3, 2, 2)]
    at = moves(np.ones((2, 2)), [0, 3], [3.0, 5.0], vectorized=True)
    assert at(rows).values[:, 0].tolist() == [4, 6, 8]


def test_vectorized_functions_must_return_a_value_for_each_point() -> None:
    with pytest.raises(InputError, match="its first dimension must be"):
        moves(np.ones(2), [0], [2.0], vectorized=True)(lambda x: x[:1].sum(axis=1))


@pytest.mark.parametrize("workers", [-1, 1.5, "many", None, "4-8", [2]])
def test_other_workers_are_refused(workers: Any) -> None:
    with pytest.raises(InputError, match=r"workers is .* it must be 0"), backend_of(workers):
        pass


def test_a_time_limit_needs_workers(backend: Backend) -> None:
    with pytest.raises(InputError, match="timeout is 1, but"):
        moves(np.array([1.0]), [0], [2.0])(fails_at_three, backend, Limits(timeout=1.0))


def test_a_map_must_return_all_results() -> None:
    at = moves(np.array([1.0, 2.0]), [0, 1], [2.0, 3.0])
    with pytest.raises(InputError, match=r"must return the results of all calls .* it returned 2 of 3"):
        at(sum_of_squares, Mapped(lambda function, tasks: list(map(function, tasks))[:-1]))
    with pytest.raises(InputError, match="it returned None"):
        at(sum_of_squares, Mapped(lambda function, tasks: None))


def test_a_function_that_changes_the_moved_entry_is_named() -> None:
    def function(x: Any) -> float:
        if x[0] == 3:
            x[0] = 4.0
        return 1.0

    with pytest.raises(InputError, match=r"x\[0\] was 3 before a call and 4 after it"):
        moves(np.array([1.0, 2.0]), [0], [3.0])(function)


def test_lambdas_cannot_be_sent_to_processes_by_pickle() -> None:
    at = moves(np.array([1.0]), [0], [3.0])
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(InputError, match="cannot be sent to other processes"),
    ):
        at(lambda x: 1.0, OnExecutor(executor))
    with multiprocessing.Pool(1) as pool, pytest.raises(InputError, match="cannot be sent to other processes"):
        at(lambda x: 1.0, Mapped(pool.map))
