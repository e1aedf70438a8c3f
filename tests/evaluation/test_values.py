"""Forms of values: what a function may return, and Jacobians in the forms of value and argument."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form
from distnum.evaluation.values import NUMBER, ValueForm, flat_value


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (1.5, "float64", ()),
        (3, "float64", ()),
        (True, "float64", ()),
        (np.nan, "float64", ()),
        (np.float32(1.5), "float32", ()),
        (np.float64(1.5), "float64", ()),
        (np.array(2.0), "float64", ()),
        (np.float16(1.5), "float32", ()),
        (np.longdouble(1.5), "float64", ()),
        (2j, "complex128", ()),
        (np.complex64(2j), "complex64", ()),
        (np.ones((2, 3), order="F"), "float64", (2, 3)),
        ([1, 2.5], "float64", (2,)),
        ((1, True), "float64", (2,)),
        (np.arange(3), "float64", (3,)),
        (np.array([True]), "float64", (1,)),
        (np.ones(2, ">f4"), "float32", (2,)),
        (Fraction(1, 2), "float64", ()),
        (Decimal("0.5"), "float64", ()),
    ],
)
def test_numbers_and_arrays(value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    form, flat = flat_value(value)
    assert form == ValueForm(None, (shape,), dtype)
    assert flat.dtype == dtype
    assert flat.dtype.isnative
    numbers = float(value) if isinstance(value, (Fraction, Decimal)) else value
    assert np.array_equal(flat.reshape(shape), np.asarray(numbers).astype(dtype), equal_nan=True)
    again, _ = flat_value(value, form)
    assert again is form or again == NUMBER
    assert np.shape(form.view(flat)) == shape


def test_a_number_comes_back_as_a_number() -> None:
    assert type(NUMBER.view(np.array([1.5]))) is float
    assert type(ValueForm(None, ((),), "float32").view(np.ones(1, np.float32))) is np.float32
    assert type(ValueForm(None, ((),), "complex128").view(np.array([1j]))) is complex
    assert NUMBER.view(np.ones((4, 1))).shape == (4,)


def test_dicts_are_matched_by_key_in_any_order() -> None:
    form, flat = flat_value({"b": np.ones((2, 2)), 3: 1, ("t", 1): np.float32(2)})
    assert form.keys == ("b", 3, ("t", 1))
    assert list(flat) == [1, 1, 1, 1, 1, 2]
    same, other = flat_value({("t", 1): 7, np.int64(3): 6, "b": np.full((2, 2), 5.0)}, form)
    assert same == form
    assert list(other) == [5, 5, 5, 5, 6, 7]
    view = form.view(np.stack([flat, other]))
    assert view["b"].shape == (2, 2, 2)
    assert list(view[3]) == [1, 6]
    assert [form.entry_name(index) for index in (3, 4, 5)] == ["fun['b'][1, 1]", "fun[3]", "fun[('t', 1)]"]
    assert pickle.loads(pickle.dumps(form)) == form


def test_values_of_another_order_of_keys_are_aligned() -> None:
    # Two workers may each have met the keys in another order first.
    form, _ = flat_value({"b": np.ones(2), "a": 1.0})
    other, flat = flat_value({"a": 7.0, "b": np.array([8.0, 9.0])})
    assert form.aligned(np.stack([flat, flat + 1]), other).tolist() == [[8, 9, 7], [9, 10, 8]]
    assert form.aligned(flat, form) is flat
    with pytest.raises(InputError, match="fun returned shape"):
        form.aligned(flat, flat_value(flat)[0])


def test_later_values_take_the_wider_dtype() -> None:
    single, _ = flat_value(np.ones(2, np.float32))
    form, flat = flat_value(np.array([0.1, 1]), single)
    assert (form.dtype, flat.dtype, flat[0]) == ("float64", np.float64, 0.1)
    form, flat = flat_value(np.ones(2, np.float32), form)
    assert (form.dtype, flat.dtype) == ("float64", np.float64)
    form, flat = flat_value(1j, NUMBER)
    assert (form.dtype, flat.dtype) == ("complex128", np.complex128)
    assert flat_value(1.0, form)[1].dtype == np.complex128


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "fun returned None; it must return a number, an array of numbers or a dict of them"),
        ("1.5", "fun returned the text '1.5'"),
        (b"1", "fun returned the text b'1'"),
        ([1.0, None], "fun returned a list"),
        ([[1.0], [1.0, 2.0]], "fun returned a list"),
        (np.array(["a"]), "fun returned an array of text"),
        (np.array([None]), "fun returned an array of objects"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "fun returned a masked array"),
        (np.ma.masked, "fun returned a masked array"),
        (csr_matrix(np.eye(2)), "fun returned csr_matrix"),
        (np.ones(0), r"fun returned an empty array of shape \(0,\)"),
        ([], "fun returned an empty array"),
        ({}, "fun returned an empty dict"),
        ({"a": np.ones((0, 2))}, r"fun\['a'\] returned an empty array"),
        ({"a": {"b": 1.0}}, r"fun\['a'\] returned a dict"),
        ({"a": None}, r"fun\['a'\] returned None"),
        ({object: 1.0}, r"fun returned a dict with the key <class 'object'>"),
        (object(), "fun returned object"),
    ],
)
def test_what_is_no_value_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        flat_value(value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("first", "value", "message"),
    [
        (np.ones(2), np.ones(3), r"fun returned shape \(3,\), where fun\(x\) returned shape \(2,\)\."),
        (1.0, np.ones(1), r"fun returned shape \(1,\), where fun\(x\) returned shape \(\)"),
        (np.ones(1), 1.0, r"fun returned shape \(\), where fun\(x\) returned shape \(1,\)"),
        ({"a": 1.0}, 1.0, r"fun returned shape \(\), where fun\(x\) returned a dict with 'a'"),
        (1.0, {"a": 1.0}, r"fun returned a dict with 'a', where fun\(x\) returned shape \(\)"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, r"returned a dict with 'a', where fun\(x\) returned a dict with 'a', 'b'"),
        ({"a": np.ones(2)}, {"a": 1.0}, r"fun\['a'\] returned shape \(\), where fun\(x\) returned shape \(2,\)"),
    ],
)
def test_values_of_another_form_are_refused(first: Any, value: Any, message: str) -> None:
    form, _ = flat_value(first)
    with pytest.raises(InputError, match=message):
        flat_value(value, form)


def test_jacobians_have_the_forms_of_value_and_argument_and_are_views() -> None:
    flat = np.arange(6.0 * 5).reshape(6, 5)
    array_form, _ = flat_value(np.ones((2, 3)))
    jacobian = array_form.jacobian(flat, Form.of(np.ones(5))[0])
    assert jacobian.shape == (2, 3, 5)
    assert np.shares_memory(jacobian, flat)
    form, _ = Form.of({"b": np.ones((2, 2)), 1: [0.5]})
    by_argument = array_form.jacobian(flat, form)
    assert by_argument["b"].shape == (2, 3, 2, 2)
    assert by_argument["b"][1, 2, 0, 1] == flat[5, 1]
    assert by_argument[1][0].shape == (2, 3)
    assert np.shares_memory(by_argument["b"], flat)
    dict_form, _ = flat_value({"p": 1.0, "q": np.ones(5)})
    nested = dict_form.jacobian(flat, form)
    assert nested["q"]["b"].shape == (5, 2, 2)
    assert nested["q"][1][0][4] == flat[5, 4]
    assert nested["p"]["b"].shape == (2, 2)
    assert type(nested["p"][1][0]) is float


@pytest.mark.parametrize(
    ("x", "kind"), [(1, float), (np.float32(1), np.float64), (np.array(1.0), np.ndarray), (np.ones(1), np.ndarray)]
)
def test_a_gradient_has_the_kind_of_the_argument(x: Any, kind: type) -> None:
    gradient = NUMBER.jacobian(np.array([[2.0]]), Form.of(x)[0])
    assert type(gradient) is kind
    assert np.shape(gradient) == np.shape(x)


@pytest.mark.parametrize(
    "value", [1.0, np.ones((2, 3), np.float32), {"a": 1j, 3: np.ones(2), "3": 1, (1, ("b", None)): 2, None: 1, 2.5: 0}]
)
def test_forms_as_json(value: Any) -> None:
    form, _ = flat_value(value)
    again = ValueForm.from_json(json.loads(json.dumps(form.to_json())))
    assert again == form
    assert flat_value(value, again)[0] == form


def test_names_of_values() -> None:
    assert NUMBER.entry_name(0) == "fun"
    assert flat_value(np.ones((2, 3)))[0].entry_name(5) == "fun[1, 2]"
