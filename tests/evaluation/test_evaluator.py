"""The Evaluator: options, maps of anything, other libraries' interfaces, and its end."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.common.errors import EvaluationError, InputError, TrainingError
from distnum.evaluation.evaluator import Evaluator
from distnum.evaluation.outcomes import Failure


@pytest.fixture(scope="module")
def evaluator(ray_session: None) -> Iterator[Evaluator]:
    with Evaluator(2) as made:
        yield made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be a number from 1"),
        ({"workers": "8:2"}, "workers is '8:2'"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"workers": True}, "workers is True"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"setup": "prepare"}, "setup is 'prepare'; it must be a function"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Evaluator(**options)


def test_results_are_in_order_and_may_be_anything(evaluator: Evaluator) -> None:
    def fun(pair: tuple[str, float]) -> dict[str, Any]:
        time.sleep(pair[1])
        return {"text": pair[0].upper(), "pid": os.getpid()}

    results = list(evaluator.map(fun, [("slow", 0.2), ("b", 0.0), ("c", 0.0), ("d", 0.0)]))
    assert [result["text"] for result in results] == ["SLOW", "B", "C", "D"]
    assert {result["pid"] for result in results} <= set(evaluator.worker_pids)


def test_an_endless_iterator_is_read_as_far_as_needed(evaluator: Evaluator) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for taken in itertools.count():  # noqa: UP028
            yield taken

    results = evaluator.map(lambda number: 2 * number, numbers())
    assert list(itertools.islice(results, 100)) == list(range(0, 200, 2))
    results.close()  # type: ignore[attr-defined]
    assert taken < 100_000
    assert list(evaluator.map(lambda number: -number, range(3))) == [0, -1, -2]


def test_an_exception_is_raised_at_its_position(evaluator: Evaluator) -> None:
    def fun(number: int) -> float:
        return 1 / (2 - number)

    results = evaluator.map(fun, range(5))
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert "in fun" in str(caught.value.__cause__)


def test_failures_take_the_places_of_values(evaluator: Evaluator) -> None:
    results = dict(evaluator.evaluate(lambda number: os._exit(3) if number == 2 else 1 / number, range(4)))
    assert (results[1], results[3]) == (1.0, 1 / 3)
    assert isinstance(results[0], Failure)
    assert results[0].text == "ZeroDivisionError: division by zero"
    assert isinstance(results[2], Failure)
    assert results[2].text == "the function ended its process: os._exit(3)"
    with pytest.raises(EvaluationError, match=r"os\._exit\(3\) \(in call 1"):
        list(evaluator.map(lambda number: os._exit(3) if number else 0, range(2)))


def test_a_result_that_cannot_be_sent_is_told(evaluator: Evaluator) -> None:
    with pytest.raises((TypeError, TrainingError), match="cannot pickle"):
        list(evaluator.map(lambda number: sys._getframe(), range(1)))


def test_it_serves_as_a_batch_evaluator_of_optimagic(evaluator: Evaluator) -> None:
    evaluate = evaluator.batch_evaluator
    assert evaluate(lambda x: x + 1, [1, 2, 3], n_cores=2, error_handling="raise") == [2, 3, 4]
    assert evaluate(lambda a, b: a - b, [(3, 1), (5, 1)], unpack_symbol="*") == [2, 4]
    assert evaluate(lambda a, b: a - b, [{"b": 3, "a": 1}], unpack_symbol="**") == [-2]
    ok, failed = evaluate(lambda x: 1 / x, [1, 0])
    assert ok == 1
    assert failed.startswith("Traceback")
    with pytest.raises(ZeroDivisionError):
        evaluate(lambda x: 1 / x, [1, 0], error_handling="raise")
    with pytest.raises(InputError, match="error_handling is 'stop'"):
        evaluate(abs, [1], error_handling="stop")


@pytest.mark.parametrize("as_map", [True, False])
def test_it_serves_as_the_workers_of_scipy(evaluator: Evaluator, as_map: bool) -> None:
    from scipy.optimize import differential_evolution, rosen

    options: dict[str, Any] = {"maxiter": 3, "seed": 0, "polish": False, "updating": "deferred"}
    bounds = [(-2, 2)] * 2
    expected = differential_evolution(rosen, bounds, **options)
    found = differential_evolution(rosen, bounds, workers=evaluator.map if as_map else evaluator, **options)
    np.testing.assert_array_equal(found.x, expected.x)


def test_setup_is_called_once_in_each_worker_and_its_replacement(ray_session: None, tmp_path: Path) -> None:
    def setup() -> None:
        (tmp_path / f"{os.getpid()}-{time.time_ns()}").touch()

    def fun(number: int) -> int:
        if number and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            subprocess.run(["kill", "-9", str(os.getpid())], check=False)  # as from outside
        return number

    with Evaluator(1, setup=setup) as evaluator:
        assert list(evaluator.map(fun, range(4))) == [0, 1, 2, 3]
        assert list(evaluator.map(fun, range(4))) == [0, 1, 2, 3]
        assert len(list(tmp_path.glob("*-*"))) == 2


def test_an_exception_of_setup_is_raised(ray_session: None) -> None:
    def setup() -> None:
        raise FileNotFoundError("no license")

    with pytest.raises(FileNotFoundError, match="no license"), Evaluator(1, setup=setup):
        pass


def test_each_worker_has_a_folder(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("5")

    def fun(number: int) -> tuple[str, str]:
        Path("out.txt").write_text(str(number))
        time.sleep(0.01)
        return Path.cwd().name, Path("in.txt").read_text() + Path("out.txt").read_text()

    with Evaluator(2, workdir=tmp_path) as evaluator:
        results = list(evaluator.map(fun, range(10)))
    assert [text for _, text in results] == [f"5{number}" for number in range(10)]
    assert os.listdir(tmp_path) == ["in.txt"]


def test_timeout_and_retries_of_the_evaluator_hold_for_calls_without(ray_session: None) -> None:
    with Evaluator(1, timeout=0.3) as evaluator:
        results = dict(evaluator.evaluate(lambda number: time.sleep(1000 * number), range(2)))
    assert results[0] is None
    assert results[1].kind == "timeout"


def test_two_evaluators_share_the_session(evaluator: Evaluator) -> None:
    with Evaluator(1) as other:
        pairs = zip(evaluator.map(abs, [-1, -2]), other.map(abs, [-3, -4]), strict=True)
        assert list(pairs) == [(1, 3), (2, 4)]
    assert list(evaluator.map(abs, [-5])) == [5]


def test_a_closed_evaluator_says_so() -> None:
    evaluator = Evaluator(1)
    evaluator.close()
    evaluator.close()
    with pytest.raises(InputError, match="the Evaluator is closed"):
        evaluator.map(abs, [1])


def test_a_function_may_refer_to_its_evaluator_but_not_use_it(evaluator: Evaluator) -> None:
    assert list(evaluator.map(lambda number: evaluator is not None, [1])) == [True]
    with pytest.raises(InputError, match="can be used in the process that has made it only"):
        list(evaluator.map(lambda number: evaluator.n_workers, [1]))
