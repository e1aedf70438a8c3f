"""Digests of Python values and functions that are the same in every process: of exact bits, and of names.

What can be imported is known by its name, whatever its source; ``lambda`` and functions within functions by their
compiled code, which does not depend on where they stand in a file. Other objects are known by what ``pickle`` would
save of them, taken apart instead of pickled: the bytes of a pickle differ from process to process.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b
from inspect import CO_NESTED
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from distnum.common.errors import InputError

__all__ = ["code_digest", "digest", "display_name", "joined"]

_BYTES = 16
# Entries of a class that say where it stands, or that every class has.
_NOT_OF_A_CLASS = {"__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__"}


def joined(*parts: bytes | memoryview) -> bytes:
    """Return the digest of several strings of bytes, 16 bytes, which depends on their boundaries."""
    state = blake2b(digest_size=_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def digest(value: Any) -> bytes:
    """Return the digest of a value, 16 bytes: the same for the same bits and structure.

    Numbers of different types differ, as do 0.0 and -0.0; dicts are the same whatever the order of their keys. Arrays
    are known by dtype, shape and elements, whatever their memory order.

    Raises:
        InputError: The value holds something that has neither a name nor a state, such as an open file.
    """
    return _Walk().of(value)


def code_digest(function: Any) -> str:
    """Return the digest of a function's own compiled code as text, "" if it has none; it starts with Python's version.

    Functions that it calls are not part of it. For a callable object it is the code of its class's ``__call__``.
    """
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__wrapped__", function)
    if callable(function) and not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    return f"{sys.version_info[0]}.{sys.version_info[1]}:{_Walk().of(code).hex()}"


def display_name(function: Any) -> str:
    """Return a name of a function for messages and tables, such as ``"model:loss"``.

    >>> display_name(partial(np.linalg.norm, ord=1))
    'numpy.linalg:norm'
    """
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    name = getattr(function, "__name__", None) if named is type(function) else None
    return f"{getattr(named, '__module__', None) or 'builtins'}:{name or named.__qualname__}"


def _global_name(value: Any) -> str | None:
    """Return the module and name by which a value can be imported; None if it cannot."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


class _Walk:
    """The digests of all parts of one value."""

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._kept: list[Any] = []  # as long as an object lives, no other one has its id
        self._open: dict[int, int] = {}

    def of(self, value: Any) -> bytes:
        """Return the digest of one value."""
        kind = type(value)
        if value is None or kind in (bool, int, float, complex, str, bytes):
            content = value if kind is bytes else np.array(value).tobytes() if kind in (float, complex) else None
            return joined(kind.__name__.encode(), repr(value).encode() if content is None else content)
        if kind is np.ndarray and not value.dtype.hasobject:
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            return joined(b"array", repr(value.dtype.descr).encode(), repr(value.shape).encode(), content)
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return joined(b"scalar", repr(value.dtype.descr).encode(), value.tobytes())
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:  # a value within itself
            return joined(b"cycle", str(len(self._open) - self._open[id(value)]).encode())
        self._open[id(value)] = len(self._open)
        try:
            result = self._of_object(value)
        except RecursionError:
            raise InputError(f"store has no key for a {kind.__qualname__} that is nested too deeply.") from None
        del self._open[id(value)]
        self._done[id(value)] = result
        self._kept.append(value)
        return result

    def _all(self, kind: str, values: Iterable[Any]) -> bytes:
        return joined(kind.encode(), *map(self.of, values))

    def _of_object(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (tuple, list):
            return self._all(kind.__name__, value)
        if kind in (set, frozenset):
            return joined(kind.__name__.encode(), *sorted(map(self.of, value)))
        if kind is dict:
            pairs = sorted(((self.of(name), name) for name in value), key=lambda pair: pair[0])
            return joined(b"dict", *(part for key, name in pairs for part in (key, self.of(value[name]))))
        if kind is np.ndarray:
            return joined(b"objects", repr(value.shape).encode(), *map(self.of, value.ravel().tolist()))
        if kind is partial:
            return self._all("partial", (value.func, value.args, value.keywords))
        if kind is MethodType:
            return self._all("method", (value.__self__, value.__func__))
        if kind is ModuleType:
            return joined(b"module", value.__name__.encode())
        if kind is CodeType:
            return self._of_code(value)
        if not isinstance(value, type) and callable(getattr(value, "identity", None)):  # such as a Program
            return joined(b"identity", value.identity().encode())
        if (name := _global_name(value)) is not None:
            return joined(b"name", name.encode())
        if kind is FunctionType:
            cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
            parts = (value.__module__, value.__code__, value.__defaults__, value.__kwdefaults__, cells)
            return self._all("function", parts)
        if isinstance(value, type):
            content = {name: item for name, item in vars(value).items() if name not in _NOT_OF_A_CLASS}
            return self._all("class", (value.__qualname__, value.__bases__, content))
        if callable(value) and hasattr(value, "__wrapped__"):  # such as a compiled function
            return self._all("wrapper", (type(value), value.__wrapped__))
        return self._of_state(value)

    def _of_code(self, code: CodeType) -> bytes:
        names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        flags = code.co_flags & ~CO_NESTED  # whether it is within a function says where it stands
        numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags)
        return self._all("code", (code.co_code, code.co_consts, *names, *numbers))

    def _of_state(self, value: Any) -> bytes:
        """Return the digest of what ``pickle`` would save of an object."""
        try:
            state = value.__reduce_ex__(4)
        except (TypeError, AttributeError, pickle.PicklingError, NotImplementedError) as error:
            raise InputError(
                f"store has no key for a {type(value).__qualname__}, which the function or its arguments hold: "
                f"{error}. Make it within the function, or define it at the top of a module."
            ) from None
        if isinstance(state, str):
            return self._all("global", (type(value), state))
        make, arguments, *rest = state
        content, items, pairs = [*rest, None, None, None][:3]
        parts = (make, arguments, content, None if items is None else list(items))
        return self._all("object", (*parts, None if pairs is None else dict(pairs)))


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True
