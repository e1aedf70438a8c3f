"""Nested dicts, lists and tuples: their leaves with paths and names, and trees that are matched by name.

A *structure* is a tree whose leaves are replaced by their numbers: 0, 1, 2, ... in the order of the tree. A path holds
the keys, positions or names of fields that lead from the root to a leaf.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError

__all__ = [
    "Path",
    "as_numbers",
    "described",
    "in_order",
    "leaf_numbers",
    "matched",
    "name_of",
    "names_of",
    "put_together",
    "take_apart",
]

Path: TypeAlias = tuple[Hashable, ...]


def take_apart(tree: Any, leaves: list[tuple[Path, Any]], path: Path = ()) -> Any:
    """Return the structure of a tree, and append its leaves with their paths to a list.

    All mappings count as dicts, whose order is kept. What is no mapping, list or tuple is a leaf.

    >>> leaves = []
    >>> take_apart({"b": [1.5, 2.5], "a": 3.5}, leaves), leaves
    ({'b': [0, 1], 'a': 2}, [(('b', 0), 1.5), (('b', 1), 2.5), (('a',), 3.5)])
    """
    if isinstance(tree, Mapping):
        return {key: take_apart(item, leaves, (*path, key)) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        keys: Iterable[Hashable] = fields_of(tree) or range(len(tree))
        items = [take_apart(item, leaves, (*path, key)) for key, item in zip(keys, tree, strict=True)]
        return _like(tree, items)
    leaves.append((path, tree))
    return len(leaves) - 1


def put_together(structure: Any, leaves: Sequence[Any]) -> Any:
    """Return the tree of a structure with these leaves."""
    if type(structure) is int:
        return leaves[structure]
    if isinstance(structure, dict):
        return {key: put_together(item, leaves) for key, item in structure.items()}
    return _like(structure, [put_together(item, leaves) for item in structure])


def leaf_numbers(structure: Any) -> list[int]:
    """Return the numbers of the leaves in a part of a structure."""
    if type(structure) is int:
        return [structure]
    items = structure.values() if isinstance(structure, dict) else structure
    return [number for item in items for number in leaf_numbers(item)]


def in_order(structure: Any, ranks: Sequence[int]) -> Any:
    """Return a structure with the keys of its dicts in the order of the lowest rank of the leaves below them."""
    if type(structure) is int:
        return structure
    if isinstance(structure, dict):
        lowest = {key: min((ranks[n] for n in leaf_numbers(part)), default=0) for key, part in structure.items()}
        return {key: in_order(structure[key], ranks) for key in sorted(structure, key=lowest.__getitem__)}
    return _like(structure, [in_order(part, ranks) for part in structure])


def fields_of(tree: Any) -> tuple[str, ...]:
    """Return the names of the fields of a named tuple; none for anything else."""
    return tuple(getattr(tree, "_fields", ())) if isinstance(tree, tuple) else ()


def _like(tree: Any, items: list[Any]) -> Any:
    if fields_of(tree):
        return type(tree)(*items)
    return items if isinstance(tree, list) else tuple(items)


def names_of(paths: Sequence[Path], what: str) -> tuple[str, ...]:
    """Return a distinct name for each path, such as ``W``, ``layers[0].W`` or ``x[3]``.

    Args:
        paths: The paths.
        what: Name of the whole tree.

    Raises:
        InputError: Different keys are written alike.

    >>> names_of([("W",), ("layers", 0, "W"), ("layers", 0, "not a name"), (3,)], "x")
    ('W', 'layers[0].W', "layers[0]['not a name']", 'x[3]')
    """
    names = tuple(name_of(path, what) for path in paths)
    if len(set(names)) < len(names):  # such as "a.b" for {"a.b": 1.0, "a": {"b": 2.0}}
        names = tuple(what + "".join(f"[{_key(key)}]" for key in path) for path in paths)
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{what} has two entries {name}; their keys must be distinct when they are printed.")
    return names


def name_of(path: Path, what: str) -> str:
    """Return a name for one path, as ``names_of`` does; different paths may have the same name."""
    if not path:
        return what
    first = path[0]
    name = str(first) if isinstance(first, str) and first else f"{what}[{_key(first)}]"
    for key in path[1:]:
        name += f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{_key(key)}]"
    return name


def _key(key: Hashable) -> str:
    plain = key.item() if isinstance(key, np.generic) else key
    return repr(plain)


def matched(structure: Any, tree: Any, form: str, what: str, path: Path = ()) -> Iterator[tuple[Any, Any, Path]]:
    """Match a tree with a structure by name, whatever the order of the keys.

    A number in place of a dict, list or tuple belongs to all leaves of it.

    Args:
        structure: The structure.
        tree: The tree.
        form: Name, in messages, of the tree that the structure was made of.
        what: Name of ``tree`` in messages.

    Yields:
        A part of the structure, what the tree has in its place, and its path. The part is the number of a leaf, unless
        the tree has a number where the structure has a dict, list or tuple.

    Raises:
        InputError: The tree does not have the same names, or numbers of items.
    """
    if type(structure) is int or _is_number(tree):
        yield structure, tree, path
        return
    name = name_of(path, form)
    its_name = f"{what} of {name}" if path else what
    named, given = _by_name(structure), _by_name(tree)
    if named is None or (given is None and fields_of(structure)):
        items = list(tree) if isinstance(tree, (list, tuple, np.ndarray)) else None
        if items is None:
            raise InputError(f"{its_name} is {described(tree)}, but {name} is a {type(structure).__name__}.")
        if len(items) != len(structure):
            raise InputError(f"{its_name} has length {len(items)}, but {name} has length {len(structure)}.")
        keys: Iterable[Hashable] = fields_of(structure) or range(len(structure))
        for key, part, item in zip(keys, structure, items, strict=True):
            yield from matched(part, item, form, what, (*path, key))
        return
    if given is None:
        raise InputError(f"{its_name} is {described(tree)}, but {name} is a dict with {_keys(named)}.")
    lacking, unknown = [key for key in named if key not in given], [key for key in given if key not in named]
    if lacking or unknown:
        found = f"lacks {_keys(lacking)}" if lacking else f"has {_keys(unknown)}"
        raise InputError(f"{its_name} {found}, but {name} has {_keys(named)}; they must have the same names.")
    for key, part in named.items():
        yield from matched(part, given[key], form, what, (*path, key))


def _by_name(tree: Any) -> Mapping[Hashable, Any] | None:
    if isinstance(tree, Mapping):
        return tree
    return dict(zip(fields_of(tree), tree, strict=True)) if fields_of(tree) else None


def _keys(keys: Iterable[Hashable]) -> str:
    texts = [_key(key) for key in keys]
    return ", ".join(texts[:6]) + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex, np.number)) or (isinstance(value, np.ndarray) and not value.ndim)


def described(value: Any) -> str:
    """Return what a value is, in a few words.

    >>> described(None), described("0.1"), described(np.ones(3)), described({1, 2})
    ('None', "the text '0.1'", 'an array of shape (3,)', 'set {1, 2}')
    """
    if value is None:
        return "None"
    if isinstance(value, (str, bytes)):
        return f"the text {value!r:.60}"
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array"
    if type(value) is np.ndarray:
        kinds = {"U": "text", "S": "text", "O": "objects", "c": "complex numbers", "b": "booleans"}
        if value.dtype.names is not None:
            return "a structured array"
        return f"an array of {kinds.get(value.dtype.kind, f'shape {value.shape}')}"
    if isinstance(value, (Mapping, list, tuple, np.ndarray)):
        return f"a {type(value).__name__}"
    return f"{type(value).__name__} {value!r:.60}".replace("\n", " ")


def as_numbers(value: Any) -> NDArray[Any] | None:
    """Return a value as an array of numbers or booleans; None if it is something else.

    Masked arrays, sparse matrices, text and objects are something else.

    >>> as_numbers([1, 2]), as_numbers("1"), as_numbers(np.ma.array([1.0]))
    (array([1, 2]), None, None)
    """
    if isinstance(value, np.ma.MaskedArray):
        return None
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, and whatever the conversion of another library's array raises
        return None
    return array if array.dtype.kind in "biufc" else None
