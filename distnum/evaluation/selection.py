"""Selections of some entries of an argument, by index, mask or name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.evaluation.trees import Path, described, leaf_numbers, name_of

if TYPE_CHECKING:
    from distnum.evaluation.forms import Form

__all__ = ["selected"]

_ALLOWED = "flat indices, a boolean array of its shape, or names"


def selected(form: Form, selection: Any) -> NDArray[np.int64]:
    """Flat indices of a selection, as ``Form.indices`` returns them."""
    indices = np.unique(_of_part(form, form.structure, selection, ()))
    if not indices.size:
        raise InputError(f"indices selects nothing of {form.what}; it must select at least one entry.")
    return indices


def _of_part(form: Form, part: Any, selection: Any, path: Path) -> NDArray[np.int64]:
    """Flat indices of what is selected in a part of the structure."""
    numbers = leaf_numbers(part)
    if not numbers:
        return np.empty(0, np.int64)
    start, end = form.starts[numbers[0]], form.starts[numbers[-1] + 1]
    if selection is None:
        return np.arange(start, end)
    if isinstance(selection, Mapping):
        parts = [_of_item(form, part, key, item, path) for key, item in selection.items()]
        return np.concatenate([np.empty(0, np.int64), *parts])
    names = [selection] if isinstance(selection, str) else selection
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return np.concatenate([_of_name(form, name) for name in names])
    name = name_of(path, form.what)
    shape = form.shapes[part] if type(part) is int else (end - start,)
    return start + _positions(selection, shape, name)


def _of_item(form: Form, part: Any, key: Any, selection: Any, path: Path) -> NDArray[np.int64]:
    if isinstance(part, dict) and key in part:
        return _of_part(form, part[key], selection, (*path, key))
    if isinstance(part, (list, tuple)):
        fields = getattr(part, "_fields", ())
        position = fields.index(key) if key in fields else key
        if isinstance(position, (int, np.integer)) and 0 <= position < len(part):
            return _of_part(form, part[position], selection, (*path, key))
    if not path and key in form.names:
        return _of_part(form, form.names.index(key), selection, (key,))
    name = name_of(path, form.what)
    raise InputError(f"indices names {key!r:.60}, which {name} does not have{_known(form)}.")


def _of_name(form: Form, name: str) -> NDArray[np.int64]:
    """Flat indices of a leaf, or of one entry of it, by name."""
    if name in form.names:
        number = form.names.index(name)
        return np.arange(form.starts[number], form.starts[number + 1])
    leaf, bracket, position = name.rpartition("[")
    if bracket and leaf in form.names and position.endswith("]"):
        number = form.names.index(leaf)
        try:
            place = tuple(int(text) for text in position[:-1].split(","))
            index = np.ravel_multi_index(place, form.shapes[number])
        except ValueError:
            raise InputError(f"indices names {name!r}, but {leaf} has shape {form.shapes[number]}.") from None
        return np.array([form.starts[number] + int(index)])
    raise InputError(f"indices names {name!r:.60}, which {form.what} does not have{_known(form)}.")


def _known(form: Form) -> str:
    names = ", ".join(form.names[:6]) + (f" and {len(form.names) - 6} more" if len(form.names) > 6 else "")
    return f"; it has {names}"


def _positions(selection: Any, shape: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """Positions in one array, in C order."""
    size = int(np.prod(shape, dtype=np.int64))
    if isinstance(selection, slice):
        return np.arange(size)[selection]
    try:
        array = np.asarray(selection)
    except ValueError:
        array = np.asarray("")
    if array.dtype == np.bool_:
        if array.shape != shape:
            raise InputError(
                f"indices of {name} is a boolean array of shape {array.shape}, but {name} has shape {shape}; they "
                "must be the same."
            )
        return np.flatnonzero(array)
    if not array.size and array.dtype.kind in "iuf":
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or isinstance(selection, np.ma.MaskedArray):
        raise InputError(f"indices of {name} is {described(selection)}; it must be {_ALLOWED}.")
    positions = array.ravel()
    outside = (positions < -size) | (positions >= size)
    if outside.any():
        raise InputError(f"indices of {name} holds {positions[outside][0]}, but {name} has {size} entries.")
    return np.where(positions < 0, positions + size, positions).astype(np.int64)
