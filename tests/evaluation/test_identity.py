"""Keys are the same in every process for the same function and bits, and differ otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from distnum.common.errors import InputError
from distnum.evaluation.call import FunctionCall
from distnum.evaluation.forms import Form
from distnum.evaluation.points import Points
from distnum.evaluation.stores.digests import code_digest, digest, display_name
from distnum.evaluation.stores.identity import identity_of, point_keys


def loss(x: Any, scale: float = 1.0) -> float:
    return float(np.sum(x)) * scale


def times(factor: Any) -> Callable[[Any], Any]:
    return lambda x: x * factor


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.names = {"a", "b", "c", "d"}
        self.itself = self

    def __call__(self, x: Any) -> Any:
        return x * self.weights

    def loss(self, x: Any) -> Any:
        return x


VALUES: list[Any] = [
    None, True, 1, 1.0, 1j, "1", b"1", 0.0, -0.0, float("nan"), 2**200, (), [], (1,), [1], [1, [2]], [[1], 2], {},
    set(), {1}, frozenset({1}), {"a": 1}, {"a": 1.0}, {"a": 1, "b": 2}, {"a": 2, "b": 1},
    np.float64(1), np.float32(1), np.array(1.0), np.array([1.0]), np.array([[1.0]]), np.array([1.0], np.float32),
    np.array([0.0]), np.array([-0.0]), np.zeros((0, 2)), np.zeros((2, 0)), np.array(["a", None], object),
    np.array([1.0], ">f8"), slice(1, 2), slice(1, 3), loss, np.sin, np.cos, partial(loss, scale=2.0),
    partial(loss, scale=3.0),
    times(1), times(2), times(np.ones(2)), lambda x: x + 1, lambda x: x + 2, lambda x, y=1: x, lambda x, y=2: x,
    Model(1), Model(2), Model(1).loss, Model(2).loss, Model, np.linalg,
    np.random.default_rng(1), np.random.default_rng(2),
]  # fmt: skip


def test_different_values_have_different_digests() -> None:
    assert len({digest(value) for value in VALUES}) == len(VALUES)


def test_equal_values_have_equal_digests() -> None:
    a = np.random.default_rng(0).standard_normal((3, 4))
    for one, other in (
        ({"a": 1, "b": a}, {"b": a.copy(), "a": 1}),
        (a, np.asfortranarray(a)),
        (a[:, ::2], a[:, ::2].copy()),
        ({3, "x", 7.5}, {7.5, 3, "x"}),
        (Model(a), Model(a.copy())),
        (times(a), times(a.copy())),
        ([a, a], [a, a.copy()]),
        (lambda x: x + 1, eval("\n\nlambda x: x + 1", globals())),
    ):
        assert digest(one) == digest(other)


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "from tests.evaluation.test_identity import *\n"
        "print(*[digest(value).hex() for value in VALUES], code_digest(loss))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*(digest(value).hex() for value in VALUES), code_digest(loss)]


def test_values_without_a_key_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"store has no key for a lock, which the function or its arguments hold"):
        digest({"a": [threading.Lock()]})
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InputError, match="nested too deeply"):
        digest(nested)


def test_the_key_of_a_function_depends_on_its_arguments() -> None:
    form, _ = Form.of(np.zeros(3))
    data = np.arange(4.0)
    calls = [
        FunctionCall(loss, form),
        FunctionCall(loss, form, (2.0,)),
        FunctionCall(loss, form, (data,)),
        FunctionCall(loss, form, (data + 1,)),
        FunctionCall(loss, form, kwargs={"scale": 2.0}),
        FunctionCall(loss, form, vectorized=True),
        FunctionCall(times(2), form),
        FunctionCall(times(3), form),
    ]
    assert len({identity_of(call).key for call in calls}) == len(calls)
    assert identity_of(FunctionCall(loss, form, (data.copy(),))) == identity_of(calls[2])
    assert identity_of(calls[0]).name == display_name(partial(loss, scale=1)) == "tests.evaluation.test_identity:loss"
    assert display_name(Model(1)) == "tests.evaluation.test_identity:Model"
    assert identity_of(calls[0]).code == code_digest(partial(loss, scale=1))


def key_of(x: Any, moves: dict[int, Any] | None = None, call: Callable[..., Any] = loss) -> bytes:
    form, flat = Form.of(x)
    moves = moves or {}
    values = np.array(list(moves.values())) if moves else flat[:0]
    points = Points(flat, np.array(list(moves), np.int64), values, np.array([0, len(moves)]))
    (key,) = point_keys("ab" * 16, FunctionCall(call, form), points)
    return key


def test_the_key_of_a_point_depends_on_its_bits_only_whatever_the_base() -> None:
    x = np.array([1.0, -2.0, 0.0])
    assert key_of(x, {1: 5.0}) == key_of(np.array([1.0, 5.0, 0.0]))
    assert key_of(x, {1: 5.0, 2: -0.0}) == key_of(np.array([9.0, 5.0, -0.0]), {0: 1.0})
    assert key_of(x, {1: -2.0}) == key_of(x)
    assert key_of(x, {2: np.nan}) == key_of(x, {2: np.nan})


def test_other_points_have_other_keys() -> None:
    x = np.array([1.0, -2.0, 0.0])
    others = [
        key_of(x), key_of(x, {2: -0.0}), key_of(x, {0: np.nextafter(1.0, 2)}), key_of(x, {0: -2.0, 1: 1.0}),
        key_of(x.reshape(1, 3)), key_of(x.astype(np.float32)), key_of({"a": x}), key_of({"b": x}), key_of([x]),
        key_of((x,)), key_of(list(x)), key_of({"a": x[:1], "b": x[1:]}), key_of({"a": x[:2], "b": x[2:]}),
        key_of(x, {0: 1 + 1e-20j}), key_of(x, {0: 1 + 0j}), key_of(x[:2]), key_of(1.0), key_of(x[:1]),
    ]  # fmt: skip
    assert len(set(others)) == len(others)


def test_keys_of_many_points_agree_with_those_of_single_ones() -> None:
    x = np.random.default_rng(3).standard_normal(70_000)  # more than one part
    form, flat = Form.of(x)
    call = FunctionCall(loss, form)
    numbers = np.array([0, 5, 69_999])
    moved = Points.joined([Points.of_vectors(flat, flat[None]), Points.moved(flat, numbers, flat[numbers] + 1)])
    keys = point_keys("ab" * 16, call, moved)
    assert keys[0] == key_of(x)
    for number, key in zip(numbers, keys[1:], strict=True):
        one = x.copy()
        one[number] += 1
        assert key == key_of(one)


def test_a_program_is_known_by_what_it_computes() -> None:
    from distnum.evaluation.programs.program import Program

    assert digest(Program("model ${x}")) == digest(Program("model ${x}", timeout=5))
    assert digest(Program("model ${x}")) != digest(Program("other ${x}"))
