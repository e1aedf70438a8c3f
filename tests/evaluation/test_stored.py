"""Evaluations in a store are used for whatever request, and never those of another function."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.forms import Form
from distnum.evaluation.in_process import InProcess
from distnum.evaluation.outcomes import Backend, Failure, Limits, Outcomes
from distnum.evaluation.points import Points
from distnum.evaluation.stores.backend import StoredBackend, stored
from distnum.storage.evaluation_edits import drop
from distnum.storage.evaluations import EvaluationStore

SURVIVES = Limits(raises=False)
FORM, X = Form.of(np.array([1.0, 2.0, 3.0]))


class Counted:
    """A function that counts its calls; its number of calls is not part of its key."""

    n_calls = 0
    factor = 1.0

    def __call__(self, x: Any) -> Any:
        Counted.n_calls += 1
        return Counted.factor * float(np.sum(x**2))


@pytest.fixture(autouse=True)
def _count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "n_calls", 0)
    monkeypatch.setattr(Counted, "factor", 1.0)


CALL = FunctionCall(Counted(), FORM)


def around(h: float, *indices: int, x: Any = X, base: bool = True) -> Points:
    """The base point, unless it is not wanted, and one point for each index."""
    moved = np.array(indices or range(len(x)), np.int64)
    parts = [Points(x, moved[:0], x[:0], np.array([0, 0]))] if base else []
    return Points.joined([*parts, Points.moved(x, moved, x[moved] + h)])


def evaluated(
    backend: Backend, points: Points, call: FunctionCall = CALL, limits: Limits = SURVIVES
) -> tuple[list[bytes], int, dict[int, Failure]]:
    """The bits of the values, the number of evaluations from the store, and the failures."""
    values: dict[int, bytes] = {}
    failures: dict[int, Failure] = {}
    n_cached = 0
    for outcomes in backend.evaluate(call, points, limits, lambda number: f"at point {number}"):
        for number, row in zip(outcomes.numbers.tolist(), outcomes.values, strict=True):
            assert number not in values
            values[number] = row.tobytes()
        failures |= outcomes.failures
        n_cached += len(outcomes.numbers) * outcomes.cached
    assert sorted(values) == list(range(len(points)))
    return [values[number] for number in range(len(points))], n_cached, failures


def session(folder: Path, points: Points, call: FunctionCall = CALL, limits: Limits = SURVIVES, **options: Any) -> Any:
    with EvaluationStore(folder) as store:
        return evaluated(StoredBackend(options.pop("backend", InProcess()), store, **options), points, call, limits)


def test_a_second_call_and_a_second_session_evaluate_nothing_but_the_base_point(tmp_path: Path) -> None:
    points = around(1e-6)
    plain = evaluated(InProcess(), points)[0]
    with stored(InProcess(), tmp_path / "store") as backend:
        assert evaluated(backend, points) == (plain, 0, {})
        n_calls = Counted.n_calls
        assert evaluated(backend, points) == (plain, 4, {})
        assert Counted.n_calls == n_calls
    assert session(tmp_path / "store", points) == (plain, 3, {})
    assert Counted.n_calls == n_calls + 1


def test_a_changed_request_uses_what_is_there(tmp_path: Path) -> None:
    session(tmp_path / "store", around(1e-6, 0, 1))
    central = Points.joined([around(1e-6), around(-1e-6, base=False)])
    values, n_cached, _ = session(tmp_path / "store", central)
    assert values == evaluated(InProcess(), central)[0]
    assert n_cached == 2  # and the base point was evaluated again
    elsewhere = X.copy()
    elsewhere[1] += 1e-6
    values, n_cached, _ = session(tmp_path / "store", around(0.5, x=elsewhere))
    assert n_cached == 0
    assert values == evaluated(InProcess(), around(0.5, x=elsewhere))[0]
    one = Points(elsewhere, np.array([1]), X[1:2], np.array([0, 1]))
    assert session(tmp_path / "store", one)[1] == 1, "the old base point, reached from elsewhere"


def test_the_order_of_a_request_does_not_matter(tmp_path: Path) -> None:
    points = around(1e-6)
    plain = evaluated(InProcess(), points)[0]
    session(tmp_path / "store", points)
    turned = points.take(np.arange(len(points))[::-1])
    assert session(tmp_path / "store", turned)[0] == plain[::-1]


def test_a_changed_function_is_refused_by_name_and_nothing_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path / "store", around(1e-6))
    monkeypatch.setattr(Counted, "factor", 1 + 1e-15)
    message = (
        r"the function tests\.evaluation\.test_stored:Counted has changed, or its values differ from call to call: "
        r"at point [03], store '.*store' has 14\.0, and it returns 14\.000000000000016\. Use another store, or drop "
        r"its rows: distnum evaluations .*store --drop function=tests\.evaluation\.test_stored:Counted"
    )
    for points in (around(1e-6), Points.joined([around(1e-6, base=False), around(1e-6)]), around(0.1)):
        yielded = []
        with EvaluationStore(tmp_path / "store") as store, pytest.raises(InputError, match=message):
            yielded.extend(StoredBackend(InProcess(), store).evaluate(CALL, points, SURVIVES, "at point {}".format))
        assert not yielded
    with pytest.raises(InputError, match=r"has changed.* at the x in the function's record"):
        session(tmp_path / "store", around(1e-6, x=X + 1))
    with EvaluationStore(tmp_path / "store") as store:
        assert len(store) == 4
    assert drop(tmp_path / "store", lambda rows: list(range(len(rows)))) == 4
    assert session(tmp_path / "store", around(1e-6))[1] == 0


def test_without_the_base_point_another_one_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session(tmp_path / "store", around(1e-6))
    n_calls = Counted.n_calls
    assert session(tmp_path / "store", around(1e-6, base=False))[1] == 3
    assert Counted.n_calls == n_calls + 1, "at the base point of the record"
    assert drop(tmp_path / "store", lambda rows: [at for at, name in enumerate(rows.names) if not name]) == 1
    assert session(tmp_path / "store", around(1e-6, base=False))[1] == 2, "one of the points is evaluated again"
    monkeypatch.setattr(Counted, "factor", 2.0)
    with pytest.raises(InputError, match="has changed"):
        session(tmp_path / "store", around(1e-6, base=False))


def test_a_function_that_changes_during_a_session_is_found(tmp_path: Path) -> None:
    with stored(InProcess(), tmp_path / "store") as backend:
        evaluated(backend, around(1e-6), define("def named(x): return x[0] * 2"))
        with pytest.raises(InputError, match="test_stored:named has changed"):
            evaluated(backend, around(1e-6), define("def named(x): return x[0] * 3"))


def define(text: str) -> FunctionCall:
    """Define the function ``named`` of this module."""
    exec(text, globals())
    return FunctionCall(globals()["named"], FORM)


def test_changed_code_with_the_same_value_gives_one_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session(tmp_path / "store", around(1e-6), define("def named(x): return x[0] * 2"))
    assert session(tmp_path / "store", around(1e-6), define("def named(x): return 2 * x[0]"))[1] == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the code of tests.evaluation.test_stored:named is not the one" in caplog.text
    assert session(tmp_path / "store", around(1e-6), define("\n\ndef named(x): return 2 * x[0]"))[1] == 3
    assert len(caplog.records) == 1


def test_other_arguments_and_closures_are_other_functions(tmp_path: Path) -> None:
    def scaled(factor: float) -> FunctionCall:
        return FunctionCall(lambda x: factor * x[0], FORM)

    def with_argument(factor: float) -> FunctionCall:
        return FunctionCall(np.multiply, FORM, (factor,))

    for make in (scaled, with_argument):
        assert session(tmp_path / "store", around(1e-6), make(1.0))[1] == 0
        assert session(tmp_path / "store", around(1e-6), make(2.0))[1] == 0
        assert session(tmp_path / "store", around(1e-6), make(1.0))[1] == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.outer(x, x),
        lambda x: {"b": x[0], "a": x * (1 + 1j)},
        lambda x: x.astype(np.float32),
        lambda x: np.nan if x[0] > 1 else np.array(-0.0),
    ],
    ids=["matrix", "dict", "float32", "nan"],
)
def test_values_of_every_form_come_back_with_their_bits(tmp_path: Path, function: Callable[[Any], Any]) -> None:
    call = FunctionCall(function, FORM)
    points = around(1e-6)
    with EvaluationStore(tmp_path / "store") as store:
        backend = StoredBackend(InProcess(), store)
        fresh, again = (list(backend.evaluate(call, points, SURVIVES, str)) for _ in range(2))
    with EvaluationStore(tmp_path / "store") as store:
        later = list(StoredBackend(InProcess(), store).evaluate(call, points, SURVIVES, str))
    assert {one.form for one in fresh + again + later} == {fresh[0].form}
    assert again[0].values.dtype == fresh[0].values.dtype
    assert np.concatenate([one.values for one in again]).tobytes() == fresh[0].values.tobytes()
    assert [(one.cached, len(one.numbers)) for one in later] == [(True, 3), (False, 1)]


def test_the_complex_step_is_kept_apart(tmp_path: Path) -> None:
    call = FunctionCall(np.sum, FORM)
    points = Points.moved(X, np.arange(3), X + 1e-20j)
    fresh = session(tmp_path / "store", points, call)
    assert session(tmp_path / "store", points, call)[0] == fresh[0]
    assert session(tmp_path / "store", around(0.0), call)[1] == 0
    assert session(tmp_path / "store", points, call)[1] == 3


def fails_at_two(x: Any) -> float:
    Counted.n_calls += 1
    if x[0] > 1.5:
        raise ArithmeticError("no convergence")
    return float(x[0])


def test_failures_are_kept_and_tried_again_when_that_is_asked_for(tmp_path: Path) -> None:
    call, points = FunctionCall(fails_at_two, FORM), around(1.0)
    _, _, first = session(tmp_path / "store", points, call)
    _, n_cached, failures = session(tmp_path / "store", points, call)
    assert n_cached == 3
    assert failures == first
    assert failures[1].kind == "exception"
    assert "ArithmeticError: no convergence" in failures[1].text
    assert "fails_at_two" in failures[1].traceback
    n_calls = Counted.n_calls
    assert session(tmp_path / "store", points, call, retry_failed=True)[1] == 2
    assert session(tmp_path / "store", points, call, Limits(retries=2, raises=False))[1] == 2
    assert Counted.n_calls == n_calls + 2 + 4
    assert session(tmp_path / "store", points, call, Limits(retries=2, raises=False))[1] == 3
    with pytest.raises(ArithmeticError, match="no convergence"):
        session(tmp_path / "store", points, call, Limits())


class Fails:
    """A backend that fails at one point, in the way it is told."""

    n_workers = 1

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.points: list[int] = []

    def evaluate(self, call: FunctionCall, points: Points, limits: Limits, describe: Any) -> Iterator[Outcomes]:
        self.points.append(len(points))
        for outcomes in InProcess().evaluate(call, points, replace(limits, timeout=None), describe):
            last = int(outcomes.numbers[-1])
            values = outcomes.values.copy()
            values[-1] = np.nan
            yield replace(outcomes, values=values, failures={last: Failure(self.kind, "too bad", host="node7")})


@pytest.mark.parametrize(
    ("kind", "limit", "later", "n_again"),
    [
        ("crash", None, None, 1),
        ("value", None, None, 1),
        ("lost", None, None, 2),
        ("timeout", 5.0, 5.0, 1),
        ("timeout", 5.0, 1.0, 1),
        ("timeout", 5.0, 6.0, 2),
        ("timeout", 5.0, None, 2),
    ],
)
def test_which_failures_are_final(
    tmp_path: Path, kind: str, limit: float | None, later: float | None, n_again: int
) -> None:
    session(tmp_path / "store", around(1e-6), limits=Limits(limit, raises=False), backend=Fails(kind))
    again = Fails("crash")
    with EvaluationStore(tmp_path / "store") as store:
        outcomes = StoredBackend(again, store).evaluate(CALL, around(1e-6), Limits(later, raises=False), str)
        if n_again == 2:
            list(outcomes)  # the base point is compared, the last one fails again
        else:
            with pytest.raises(TrainingError, match=r"Counted has failed 0 \(too bad\), so its evaluations in store"):
                list(outcomes)
    assert again.points == [n_again]


def test_an_exception_where_the_store_has_a_value_is_raised_as_it_is(tmp_path: Path) -> None:
    session(tmp_path / "store", around(1e-6))

    def broken(self: Counted, x: Any) -> float:
        raise ZeroDivisionError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counted, "__call__", broken)
        for points in (around(1e-6), around(1e-6, x=X + 1)):
            with pytest.raises(ZeroDivisionError, match="broken"):
                session(tmp_path / "store", points, limits=Limits())
            with pytest.raises(TrainingError, match=r"Counted has failed .* \(ZeroDivisionError: broken\), so its"):
                session(tmp_path / "store", points)


def test_values_wait_until_the_function_is_known_to_be_the_same(tmp_path: Path) -> None:
    class BaseLast(InProcess):
        def evaluate(self, call: FunctionCall, points: Points, limits: Limits, describe: Any) -> Iterator[Outcomes]:
            for number in reversed(range(len(points))):
                part = points.take(np.array([number]))
                for outcomes in super().evaluate(call, part, limits, describe):
                    yield replace(outcomes, numbers=outcomes.numbers + number)
                assert number == 0 or len(store) == 2

    session(tmp_path / "store", around(1e-6, 0))
    with EvaluationStore(tmp_path / "store") as store:
        values, n_cached, _ = evaluated(StoredBackend(BaseLast(), store), around(1e-6))
        assert n_cached == 1
        assert len(store) == 4
    assert values == evaluated(InProcess(), around(1e-6))[0]


def test_what_can_no_longer_be_read_is_evaluated(tmp_path: Path) -> None:
    session(tmp_path / "store", around(1e-6))
    with EvaluationStore(tmp_path / "store") as store:
        (file,) = (tmp_path / "store").iterdir()
        backend = StoredBackend(InProcess(), store)
        evaluated(backend, around(1e-6, 0))
        content = file.read_bytes()
        file.write_bytes(content[:-3] + b"xyz")
        values, n_cached, _ = evaluated(backend, around(1e-6))
    assert values == evaluated(InProcess(), around(1e-6))[0]
    assert n_cached == 0


def test_a_request_that_is_given_up_keeps_what_was_done(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "store") as store:
        outcomes = StoredBackend(InProcess(), store).evaluate(FunctionCall(slow, FORM), around(1e-6), SURVIVES, str)
        assert isinstance(outcomes, Iterator)
        n_done = len(next(outcomes).numbers)
        outcomes.close()  # type: ignore[attr-defined]
        assert n_done < 4
        assert len(store) == n_done


def slow(x: Any) -> float:
    time.sleep(0.06)
    return float(x[0])


def test_stores_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"store is 3; it must be a folder or a URI"), stored(InProcess(), 3):  # type: ignore[arg-type]
        pass


KILLED = """
import sys
from tests.evaluation.test_stored import *
with stored(InProcess(), sys.argv[1]) as backend:
    x = np.arange(40.0)
    for outcomes in backend.evaluate(FunctionCall(slow, Form.of(x)[0]), around(0.5, x=x), SURVIVES, str):
        print(*outcomes.numbers, flush=True)
"""


def test_after_a_kill_only_what_was_in_flight_is_evaluated_again(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "store")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.communicate()
    x = np.arange(40.0)
    call = FunctionCall(slow, Form.of(x)[0])
    with EvaluationStore(tmp_path / "store") as store:
        n_kept = len(store)
        assert n_kept >= 3
        assert store.functions.keys() == {next(iter(store.all_rows())).function}
        values, n_cached, _ = evaluated(StoredBackend(InProcess(), store), around(0.5, x=x), call)
    assert n_cached == n_kept - 1
    assert values == [np.float64(0.5 if number == 1 else 0.0).tobytes() for number in range(41)]
