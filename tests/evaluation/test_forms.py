"""Forms of arguments: flat arrays, views, names, matching by name, selections and refusals."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.sparse import csr_matrix

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form


class Layer(NamedTuple):
    W: Any
    b: Any


LEAVES = (
    st.floats(-1e6, 1e6)
    | st.integers(-1000, 1000)
    | arrays(np.float64, array_shapes(max_dims=3, max_side=3), elements=st.floats(-9, 9))
)
KEYS = st.text(max_size=3) | st.integers(-3, 3) | st.tuples(st.text(max_size=1), st.integers(0, 2))
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.builds(Layer, inner, inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def backwards(tree: Any) -> Any:
    """The same tree with its keys in the opposite order."""
    if isinstance(tree, dict):
        return {key: backwards(tree[key]) for key in reversed(tree)}
    if isinstance(tree, Layer):
        return Layer(*map(backwards, tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(backwards, tree))
    return tree


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.shape == other.shape and np.array_equal(one, other)
    return type(other) is float and one == other


@given(TREES)
def test_any_tree_comes_back_from_its_flat_array(tree: Any) -> None:
    try:
        form, flat = Form.of(tree)
    except InputError:  # there is no number in it
        assume(False)
    view = form.view(flat)
    assert same(tree, view)
    assert form.unchanged(view, flat)
    assert len(set(form.names)) == len(form.names)
    assert len({form.entry_name(index) for index in range(form.size)}) == form.size
    assert np.array_equal(form.flatten(backwards(tree), "h"), flat)
    assert pickle.loads(pickle.dumps(form)) == form
    assert np.array_equal(form.indices([form.entry_name(form.size - 1)]), [form.size - 1])


@pytest.mark.parametrize(
    ("x", "dtype", "back"),
    [
        (2.5, np.float64, float),
        (3, np.float64, float),
        (np.float32(2), np.float32, np.float32),
        (np.float64(2), np.float64, np.float64),
        (np.int64(2), np.float64, np.float64),
        (np.array(2.0), np.float64, np.ndarray),
        (np.ones(2, np.float32), np.float32, np.ndarray),
    ],
)
def test_kinds_of_numbers(x: Any, dtype: Any, back: type) -> None:
    form, flat = Form.of(x)
    assert flat.dtype == dtype
    assert type(form.view(flat)) is back
    assert form.entry_name(0) == ("x[0]" if np.ndim(x) else "x")


def test_numbers_and_whole_numbers_take_the_dtype_of_the_arrays_beside_them() -> None:
    form, flat = Form.of({"rate": 0.1, "W": np.ones(2, np.float32), "n": np.arange(2), "k": 7})
    assert flat.dtype == np.float32
    assert form.view(flat)["W"].dtype == np.float32
    with pytest.raises(InputError, match=r"n holds a whole number that float32 cannot hold exactly"):
        Form.of({"n": np.array([2**24 + 1]), "W": np.ones(2, np.float32)})
    with pytest.raises(InputError, match="x mix the dtypes float32, float64"):
        Form.of([np.ones(2), np.ones(2, np.float32)])


@pytest.mark.parametrize("order", ["C", "F", "strided", "reversed", "swapped bytes"])
def test_any_memory_order_gives_the_same_flat_array(order: str) -> None:
    values = np.arange(12.0).reshape(3, 4)
    wide = np.zeros((6, 8))
    wide[::2, ::2] = values
    x = {
        "C": values,
        "F": np.asfortranarray(values),
        "strided": wide[::2, ::2],
        "reversed": values[::-1, ::-1].copy()[::-1, ::-1],
        "swapped bytes": values.astype(">f8"),
    }[order]
    form, flat = Form.of(x)
    assert np.array_equal(flat, np.arange(12.0))
    assert flat.dtype == np.float64
    assert flat.dtype.isnative
    assert np.array_equal(form.flatten(x, "h"), flat)
    flat[5] = -1  # a copy
    assert x[1, 1] == 5


def test_arrays_of_a_view_are_moved_in_place_also_in_complex_numbers() -> None:
    form, flat = Form.of({"W": np.zeros((2, 2)), "b": 1.0})
    moved = flat.astype(complex)
    view = form.view(moved)
    moved[3] = 2j
    assert view["W"][1, 1] == 2j
    assert type(view["b"]) is complex
    assert form.view(flat).keys() == view.keys()


def test_names_and_order_are_those_of_the_dicts() -> None:
    form, _ = Form.of(
        {"layers": [{"W": np.ones((2, 2)), "b": 1.0}], 3: np.ones(1), "a b": 2.0, "t": (1.0, Layer(1, 2))}
    )
    assert form.names == ("layers[0].W", "layers[0].b", "x[3]", "a b", "t[0]", "t[1].W", "t[1].b")
    assert form.entry_name(3) == "layers[0].W[1, 1]"
    assert form.entry_name(5) == "x[3][0]"
    with pytest.raises(IndexError):
        form.entry_name(form.size)
    with pytest.raises(IndexError):
        form.entry_name(-1)


def test_names_are_distinct_where_keys_look_alike() -> None:
    assert Form.of({"a.b": 1.0, "a": {"b": 2.0}})[0].names == ("x['a.b']", "x['a']['b']")
    assert Form.of({1: 1.0, "1": 2.0, (1,): 3.0})[0].names == ("x[1]", "1", "x[(1,)]")


def test_keys_that_print_alike_are_refused() -> None:
    class Key:
        def __repr__(self) -> str:
            return "key"

    with pytest.raises(
        InputError, match=r"x has two entries x\[key\]; their keys must be distinct when they are printed"
    ):
        Form.of({Key(): 1.0, Key(): 2.0})


def test_other_mappings_become_dicts() -> None:
    for mapping in (OrderedDict(b=1.0, a=2.0), MappingProxyType({"b": 1.0, "a": 2.0})):
        form, flat = Form.of(mapping)
        assert form.view(flat) == {"b": 1.0, "a": 2.0}
        assert list(flat) == [1, 2]


def test_another_tree_is_matched_by_name() -> None:
    form, _ = Form.of({"b": np.ones(2), 7: [1.0, np.ones(3)]}, "x")
    assert list(form.flatten({7: (9, [4, 5, 6]), "b": [1, 2]}, "lower")) == [1, 2, 9, 4, 5, 6]
    assert list(form.flatten({7: 0.5, "b": 2}, "h", broadcast=True)) == [2, 2, 0.5, 0.5, 0.5, 0.5]
    assert list(form.flatten(3, "h", broadcast=True)) == [3] * 6
    assert list(form.flatten(np.array(np.inf), "upper", broadcast=True)) == [np.inf] * 6
    assert list(Form.of([1.0, 2.0])[0].flatten(np.array([3, 4]), "grad")) == [3, 4]
    assert form.flatten({"b": [1j, 2], 7: [3, [4, 5, 6]]}, "v", dtype=complex)[0] == 1j


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"b": np.ones(2)}, r"grad lacks 'a', but x has 'b', 'a'; they must have the same names"),
        ({"b": np.ones(2), "a": 1, "c": 1}, r"grad has 'c', but x has 'b', 'a'"),
        ({"b": np.ones(2), "a": [1, 2, 3]}, r"grad of a has length 3, but a has length 2"),
        ({"b": np.ones(2), "a": {"d": 1}}, r"grad of a is a dict, but a is a list"),
        (
            {"b": np.ones(3), "a": [1, 2]},
            r"grad of b has shape \(3,\), but b has shape \(2,\); they must be the",
        ),
        ({"b": np.ones((2, 1)), "a": [1, 2]}, r"grad of b has shape \(2, 1\)"),
        ({"b": 1.0, "a": [1, 2]}, r"grad of b has shape \(\), but b has shape \(2,\)"),
        ({"b": np.ones(2), "a": 1.0}, r"grad of a has shape \(\), but a has 2 items"),
        ({"b": "12", "a": [1, 2]}, r"grad of b is the text '12'; it must be a number or an array"),
        ({"b": np.ones(2), "a": [1, None]}, r"grad of a\[1\] is None"),
        ({"b": np.ones(2), "a": [1, True]}, r"grad of a\[1\] is bool True"),
        ({"b": np.ones(2) * 1j, "a": [1, 2]}, r"grad of b is an array of complex numbers"),
        ({"b": [[1], [2, 3]], "a": [1, 2]}, r"grad of b is a list"),
        (np.ones(4), r"grad is an array of shape \(4,\), but x is a dict with 'b', 'a'"),
        ([np.ones(2), 1], r"grad is a list, but x is a dict"),
    ],
)
def test_a_tree_of_another_form_is_refused(tree: Any, message: str) -> None:
    form, _ = Form.of({"b": np.ones(2), "a": [1.0, 2.0]})
    with pytest.raises(InputError, match=message):
        form.flatten(tree, "grad")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("12", r"x is the text '12'; it must be a number, an array"),
        (None, "x is None; it must be"),
        ({"a": [1.0, None]}, r"a\[1\] is None; it must be"),
        (True, "x has dtype bool; it must be float32 or float64, or whole numbers"),
        (np.array([True]), "x has dtype bool"),
        (1j, "x has dtype complex128; it must be float32 or float64"),
        (np.ones(2, np.float16), "x has dtype float16"),
        (np.ones(2, np.longdouble), "x has dtype (float128|longdouble|float96)"),
        (np.array([1, None]), r"x is an array of objects"),
        (np.array(["a"]), "x is an array of text"),
        ({"m": np.ma.array([1.0, 2.0], mask=[0, 1])}, "m is a masked array; it must be"),
        (csr_matrix(np.eye(2)), "x is csr_matrix"),
        (np.matrix([[1.0]]), "x is a matrix; it must be"),
        (Fraction(1, 3), r"x is Fraction Fraction\(1, 3\)"),
        ({1.0, 2.0}, r"x is set \{1.0, 2.0\}"),
        ({"a": np.array([1.0, np.nan])}, r"a holds a number that is not finite; all numbers in x must be"),
        ([1.0, np.inf], r"x\[1\] holds a number that is not finite"),
        ({"a": 1e300, "b": np.ones(1, np.float32)}, r"a holds a number that is not finite"),
        (10**400, r"x is int 1000"),
        (np.ones(0), "x is empty; there must be at least one number in it"),
        ({"a": [], "b": np.ones((0, 2))}, "x is empty"),
        ({}, "x is empty"),
    ],
)
def test_what_is_no_argument_is_refused_by_one_line_that_names_it(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Form.of(x)
    assert "\n" not in str(raised.value)


def test_a_tree_that_contains_itself_is_refused() -> None:
    x: list[Any] = [1.0]
    x.append(x)
    with pytest.raises(InputError, match="x contains itself"):
        Form.of(x)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, range(8)),
        ([0, -1, 0], [0, 7]),
        (3, [3]),
        (slice(1, 4), [1, 2, 3]),
        (np.arange(8) > 5, [6, 7]),
        ("W[1, 2]", [5]),
        (["c[0]", "W[0, 0]"], [0, 6]),
        ({"W": [0, 5]}, [0, 5]),
        ({"W": np.array([[1, 0, 0], [0, 0, 1]], bool), "c": None}, [0, 5, 6, 7]),
        ({"c": {1: None}}, [7]),
        ({"c[1]": None, "W": -1}, [5, 7]),
        ({"c": "c[0]"}, [6]),
    ],
)
def test_selections_of_entries(selection: Any, expected: Any) -> None:
    form, _ = Form.of({"W": np.ones((2, 3)), "c": [1.0, 2.0]})
    indices = form.indices(selection)
    assert list(indices) == list(expected)
    assert indices.dtype == np.int64


def test_selections_of_one_array() -> None:
    form, _ = Form.of(np.ones((2, 2)))
    assert list(form.indices(np.eye(2, dtype=bool))) == [0, 3]
    assert list(form.indices("x[1, 0]")) == [2]
    assert list(form.indices("x")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ([8], "indices of x holds 8, but x has 8 entries"),
        ([-9], "indices of x holds -9"),
        ([1.0], "indices of x is a list; it must be flat indices, a boolean array of its shape, or names"),
        ([], "indices selects nothing of x"),
        (np.zeros(8, bool), "indices selects nothing of x"),
        (np.zeros(7, bool), r"boolean array of shape \(7,\), but x has shape \(8,\)"),
        ({"W": np.zeros(6, bool)}, r"boolean array of shape \(6,\), but W has shape \(2, 3\)"),
        ({"V": None}, "indices names 'V', which x does not have; it has W, c"),
        ({"c": {2: None}}, "indices names 2, which c does not have"),
        ("V", "indices names 'V', which x does not have"),
        ("W[2, 0]", r"indices names 'W\[2, 0\]', but W has shape \(2, 3\)"),
        ("W[0]", r"indices names 'W\[0\]', but W has shape"),
        ({"W": ["W[a]"]}, r"indices names 'W\[a\]'"),
        ([[0, 1], [2]], "indices of x is a list"),
        (object(), "indices of x is object"),
    ],
)
def test_wrong_selections_are_refused(selection: Any, message: str) -> None:
    form, _ = Form.of({"W": np.ones((2, 3)), "c": [1.0, 2.0]})
    with pytest.raises(InputError, match=message):
        form.indices(selection)


def _rebind(x: Any) -> None:
    x["W"] = x["W"] + 0


def _add(x: Any) -> None:
    x["cache"] = 1.0


def _remove(x: Any) -> None:
    del x["W"]


def _replace_item(x: Any) -> None:
    x["c"][1] = 5.0


def _reshape(x: Any) -> None:
    x["W"] = x["W"].T


def _swap_equal_arrays(x: Any) -> None:
    x["V"], x["W"] = x["W"], x["V"]


@pytest.mark.parametrize("change", [_rebind, _add, _remove, _replace_item, _reshape, _swap_equal_arrays])
def test_a_view_with_other_leaves_is_found(change: Any) -> None:
    form, flat = Form.of({"W": np.ones((2, 2)), "V": np.ones((2, 2)), "c": [1.0, 2.0]})
    view = form.view(flat)
    assert form.unchanged(view, flat)
    view["W"][0, 0] = 3  # in place: found by the numbers, not here
    assert form.unchanged(view, flat)
    change(view)
    assert not form.unchanged(view, flat)


def test_arrays_of_other_libraries_are_refused() -> None:
    class Series:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return np.ones(3)

    with pytest.raises(InputError, match=r"x is Series .*; it must be a number, an array"):
        Form.of(Series(), "x")
    with pytest.raises(InputError, match="x is a structured array"):
        Form.of(np.zeros(2, [("a", float)]), "x")
