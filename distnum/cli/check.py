"""The command ``distnum check``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from distnum.cli.derivative_report import WIDTH, wrapped
from distnum.cli.differentiate import add_derivative_options, changes_of
from distnum.cli.options import Command
from distnum.cli.output import DONE, FAILED, INTERRUPTED, write_json, write_output
from distnum.cli.user_code import WHERE, describe_exception, is_of_the_function, started_workers
from distnum.common.errors import InputError
from distnum.common.text import first_line, print_remark, printable

__all__ = ["CHECK"]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "function", metavar="MODULE:NAME", help="the function, looked up in this folder first; or a STUDY.toml"
    )
    parser.add_argument(
        "--gradient",
        metavar="MODULE:NAME",
        help="its gradient: a function of x, or an array (default: the function returns a pair of value and gradient)",
    )
    parser.add_argument(
        "--x",
        metavar="X",
        nargs="+",
        help="the point: an .npy or .npz file, numbers as 1,2.5, NAME=NUMBERS for each name, or MODULE:NAME; write "
        "--x=-1,2 if it begins with a minus (default: that of the study)",
    )
    group = parser.add_argument_group("the comparison")
    group.add_argument(
        "--mode",
        metavar="{auto,full,fast}",
        default="auto",
        help="full: every entry; fast: random directions and bisection; auto: full if it takes seconds (default: auto)",
    )
    group.add_argument("--rtol", metavar="T", help="relative tolerance (default: 1e-6; 1e-3 for float32)")
    group.add_argument("--atol", metavar="T", help="absolute tolerance (default: 0)")
    group.add_argument("--directions", metavar="N", default="3", help="random directions in fast mode (default: 3)")
    group.add_argument("--seed", metavar="N", default="0", help="seed of the directions (default: 0)")
    add_derivative_options(parser, order=4)
    parser.epilog = "Exit codes: 0 the gradient is right; 1 it is wrong, or an evaluation failed; 2 bad input."


def _check(options: argparse.Namespace) -> int:
    from distnum.common.checks import checked, whole
    from distnum.common.signals import handled_signals
    from distnum.differentiation.checks.check import check_gradient
    from distnum.studies.functions import ImportPath
    from distnum.studies.study import Study, checked_request

    study = Study.read(options.function) if options.function.endswith(".toml") else None
    import_path = ImportPath(str(Path.cwd())) if study is None else study.import_path
    given = ({} if study is None else study.options) | changes_of(options)
    how = {name: getattr(options, name) for name in ("mode", "rtol", "atol", "directions")}
    how["seed"] = checked("seed", options.seed, whole(0))
    with import_path.here(), handled_signals():
        with redirect_stdout(sys.stderr):  # what the modules print
            x = _x(options, study)
            function, gradient = _functions(options, study)
        checked_request(function, x, given)
        rest: dict[str, Any] = {name: value for name, value in given.items() if name not in WHERE}
        if options.quiet or options.json:
            rest["progress"] = False
        if gradient is None:
            gradient, function = _Noted(_Part(function, 1)), _Part(function, 0)
        try:
            with redirect_stdout(sys.stderr), started_workers(given, import_path) as backend:
                check = check_gradient(function, gradient, x, **how, **rest, workers=backend)
        except (KeyboardInterrupt, SystemExit):
            print_remark("distnum: interrupted.")
            return INTERRUPTED
        except Exception as error:
            if not is_of_the_function(error):
                raise
            print_remark(f"distnum: {describe_exception(error)}")
            return FAILED
    if options.json:
        entries = [entry._asdict() for entry in check.entries]
        write_json({name: value for name, value in vars(check).items() if name != "entries"} | {"entries": entries})
    elif not options.quiet:
        lines = [
            line
            for text in repr(check).splitlines()
            for line in ([text] if len(text) <= WIDTH else wrapped(text, indent="    "))
        ]
        write_output(printable("\n".join(lines), keep="\n"))
    return DONE if check else FAILED


def _x(options: argparse.Namespace, study: Any) -> Any:
    from distnum.studies.functions import found
    from distnum.studies.values import x_of_words

    if options.x is None:
        if study is None:
            raise InputError("x is missing; give --x: an .npy or .npz file, numbers as 1,2.5, or NAME=NUMBERS.")
        return study.x
    if len(options.x) == 1 and ":" in options.x[0] and not Path(options.x[0]).exists():
        x = found("x", options.x[0])
        try:
            return x() if callable(x) else x
        except Exception as error:
            raise InputError(
                f"x is {options.x[0]!r}, which fails: {type(error).__name__}: {first_line(error)}."
            ) from None
    return x_of_words(options.x)


def _functions(options: argparse.Namespace, study: Any) -> tuple[Callable[..., Any], Any]:
    """The function, and its gradient; None if the function returns both."""
    from distnum.studies.functions import found

    function = study.callable() if study is not None else found("function", options.function)
    if not callable(function):
        raise InputError(f"function is {options.function!r}, which is {function!r:.60}; it must be a function.")
    if options.gradient is None:
        return function, None
    gradient = found("gradient", options.gradient)
    return function, _Noted(gradient) if callable(gradient) else gradient


class _Noted:
    """A gradient that notes at its exceptions that it has raised them."""

    def __init__(self, gradient: Callable[..., Any]) -> None:
        self._gradient = gradient

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from distnum.evaluation.errors import raised_at

        try:
            return self._gradient(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            raise raised_at(error, "in its gradient") from error.__cause__


class _Part:
    """The value, or the gradient, of a function that returns both.

    Args:
        function: Returns a pair.
        part: 0 for the value, 1 for the gradient.
    """

    def __init__(self, function: Callable[..., Any], part: int) -> None:
        self._function, self._part = function, part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pair = self._function(*args, **kwargs)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or np.ndim(pair[0]):
            raise InputError("the function returns no pair of a value and its gradient; give --gradient MODULE:NAME.")
        return pair[self._part]


CHECK = Command("check", "compare a gradient derived by hand with finite differences", _add_options, _check)
