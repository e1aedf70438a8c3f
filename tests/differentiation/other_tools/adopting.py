"""Runs the test cases of another tool, from its installed package, with distnum in place of its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

__all__ = ["adopt", "cases_of", "noting"]


def cases_of(names: Mapping[str, Any]) -> set[str]:
    """The test cases among the names of a module, such as ``"test_fp"`` or ``"TestDense.test_fp"``."""
    cases = set()
    for name, thing in names.items():
        if name.startswith("Test"):
            methods = [method for method in dir(thing) if method.startswith("test")]
            cases |= {f"{name}.{method}" for method in methods if callable(getattr(thing, method))}
        elif name.startswith("test_") and callable(thing):
            cases.add(name)
    return cases


def adopt(theirs: ModuleType, left_out: Mapping[str, str], ours: dict[str, Any]) -> None:
    """Put the test classes and functions of another tool into a module of ours, where pytest collects them.

    Each of them uses the fixture ``by_distnum`` of that module.

    Args:
        theirs: A module of tests.
        left_out: Cases that do not apply to distnum, and the reason for each.
        ours: The names of a module of ours.
    """
    uses_distnum = pytest.mark.usefixtures("by_distnum")
    for name in sorted({case.partition(".")[0] for case in cases_of(vars(theirs)) - left_out.keys()}):
        thing = getattr(theirs, name)
        if isinstance(thing, type):
            without = {case.partition(".")[2]: None for case in left_out if case.startswith(name + ".")}
            # Processes find the class of a bound method by its module.
            thing = type(name, (thing,), {**without, "__module__": ours["__name__"]})
        ours[name] = uses_distnum(thing)


def noting(calls: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that also notes that it was called."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return noted
