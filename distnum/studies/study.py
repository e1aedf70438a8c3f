"""A study: a function or a program, a point, bounds and options, read from a TOML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distnum.common.errors import InputError
from distnum.differentiation.options import Options, Request
from distnum.differentiation.stencils.stencil import stencil_at
from distnum.differentiation.stencils.steps import step_sizes
from distnum.evaluation.evaluator import Evaluator
from distnum.evaluation.programs.program import Program
from distnum.storage.files import read_toml
from distnum.storage.uris import check_no_password, is_uri
from distnum.studies.functions import ImportPath, check_name, found
from distnum.studies.programs import program_of
from distnum.studies.values import arrays_of, bounds_of, near

__all__ = ["Study", "checked_request", "workers_of"]

_OPTIONS = tuple(name for name in Options.__annotations__ if name != "bounds")
_FIELDS = ("function", "program", "x", "bounds", *_OPTIONS)
# Options that hold numbers in the form of x, or of the function's value.
_NUMBERS = ("h", "rel_step", "x_scale", "noise", "f0", "sparsity")


@dataclass(frozen=True)
class Study:
    """What is to be differentiated, and how.

    Attributes:
        name: The file, for messages.
        folder: Folder of the study, absolute; names of files in the study are relative to it.
        function: Name of the function as ``module:name``; "" if there is a program.
        program: The program; None if there is a function.
        command: The program's command, as it is in the file; "" if there is a function.
        x: The point: a number, an array, or dicts and lists of them.
        options: Options of ``differentiate`` by name.
    """

    name: str
    folder: Path
    function: str
    program: Program | None
    command: str
    x: Any
    options: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Study:
        """Read a study from a TOML file.

        Raises:
            InputError: The file cannot be read, or a field is unknown, missing or not allowed.
        """
        path = Path(name)
        try:
            values = read_toml(path)
        except InputError as error:
            raise InputError(str(error).replace("config is", "study is", 1)) from None
        try:
            return cls._of(name, path.absolute().parent, values)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    @classmethod
    def _of(cls, name: str, folder: Path, values: Mapping[str, Any]) -> Study:
        for field in values:
            if field not in _FIELDS:
                raise InputError(f"{field!r} is not a field of a study; {near(field, _FIELDS)}")
        if ("function" in values) == ("program" in values):
            raise InputError(
                "a study needs function = 'MODULE:NAME' or a table [program]; "
                + ("it has both." if "function" in values else "it has neither.")
            )
        if "x" not in values:
            raise InputError("x is missing; it must be a table [x] of names and numbers, a number, a list, or a file.")
        function = check_name("function", values["function"]) if "function" in values else ""
        program = None if function else program_of(values["program"], folder)
        x = arrays_of(values["x"], "x", folder)
        options = {name: _option(name, values[name], folder) for name in _OPTIONS if name in values}
        if "bounds" in values:
            options["bounds"] = bounds_of(values["bounds"], x, "bounds", folder)
        command = values["program"]["command"] if program else ""
        command = command if isinstance(command, str) else " ".join(map(str, command))
        return cls(name, folder, function, program, command, x, options)

    def with_options(self, changes: Mapping[str, Any]) -> Study:
        """Return the study with other options."""
        return replace(self, options={**self.options, **changes})

    @property
    def title(self) -> str:
        """Name of what is differentiated: that of the function, or the command of the program."""
        return self.function or self.command

    @property
    def import_path(self) -> ImportPath:
        """The folder of the study as a place to import from."""
        return ImportPath(str(self.folder))

    def callable(self) -> Callable[..., Any]:
        """Return the function, which is imported, or the program.

        Raises:
            InputError: It is not found, or cannot be called.
        """
        if self.program is not None:
            return self.program
        function = found("function", self.function)
        if not callable(function):
            raise InputError(f"function is {self.function!r}, which is {function!r:.60}; it must be a function.")
        return function

    def check(self, changes: Mapping[str, Any]) -> Request:
        """Check all but the function, which is not imported, and return what would be requested.

        Args:
            changes: Options that are not from the file; messages about them do not name it.

        Raises:
            InputError: The point, the bounds or an option cannot be used.
        """
        try:
            request = checked_request(self.program or _not_called, self.x, self.options)
            if self.program is not None:
                self.program.filled(request.form.view(request.x))
            return request
        except InputError as error:
            source = "" if str(error).partition(" ")[0] in changes else f"{self.name}: "
            raise InputError(f"{source}{error}") from None


def checked_request(fun: Callable[..., Any], x: Any, options: Mapping[str, Any]) -> Request:
    """Return the request of ``differentiate(fun, x, **options)``, checked as far as that needs no evaluation.

    Raises:
        InputError: An argument cannot be used.
    """
    request = Request.of(fun, x, {**options, "workers": workers_of(options)})
    _check_workers(request)
    noise = request.noise
    if (isinstance(noise, str) and noise != "estimate") or (
        isinstance(noise, (int, float)) and not 0 <= noise < np.inf
    ):
        raise InputError(
            f"noise is {noise!r}; it must be a number of at least 0, numbers in the form of the function's value, or "
            "'estimate'."
        )
    chosen = request.indices

    def part(values: Any) -> Any:
        return values[chosen] if getattr(values, "ndim", 0) else values

    def name(position: int) -> str:
        return request.form.entry_name(int(chosen[position]))

    lower, upper, at = part(request.lower), part(request.upper), request.x[chosen]
    steps = step_sizes(
        request.scheme,
        at,
        h=None if request.may_search else part(request.h),
        rel_step=part(request.rel_step),
        x_scale=part(request.x_scale),
        lower=lower,
        upper=upper,
        entry_name=name,
    )
    stencil_at(request.scheme, at, steps, lower, upper, name)
    return request


def workers_of(options: Mapping[str, Any]) -> Any:
    """Return the option ``workers``; without it, 0, or ``"auto"`` on a cluster."""
    workers = options.get("workers")
    if workers is None:
        return 0 if options.get("address") is None else "auto"
    return workers


def _check_workers(request: Request) -> None:
    """Check what would otherwise be found when the workers start.

    Raises:
        InputError: The workers, or a time limit without them, cannot be had.
    """
    if request.workers != 0:
        Evaluator(request.workers, request.address).close()
    elif request.address is not None:
        raise InputError(
            f"address is {request.address!r}, but workers is 0, which evaluates in this process; leave one out."
        )
    elif request.limits.timeout is not None:
        raise InputError(
            f"timeout is {request.limits.timeout:g}, but an evaluation in this process cannot be ended; give workers."
        )


def _not_called(x: Any, *args: Any, **kwargs: Any) -> float:
    """Stand in for a function that is not imported."""
    raise NotImplementedError


def _option(name: str, value: Any, folder: Path) -> Any:
    """An option of ``differentiate`` from its value in a TOML file."""
    if name in _NUMBERS and (not isinstance(value, str) or value.endswith((".npy", ".npz"))):
        return arrays_of(value, name, folder)
    if name == "args":
        if not isinstance(value, list):
            raise InputError(f"args is {value!r:.60}; it must be a list of the function's further arguments.")
        return tuple(value)
    if name == "kwargs" and not isinstance(value, Mapping):
        raise InputError(f"kwargs is {value!r:.60}; it must be a table of the function's further arguments by name.")
    if name == "sparsity":
        raise InputError(
            f"sparsity is {value!r:.60}; it must be a list of lists, or an .npy file, not zero where an entry may be."
        )
    if name in ("vectorized", "progress") and not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}; it must be true or false.")
    if name in ("workers", "order", "retries") and isinstance(value, float):
        raise InputError(f"{name} is {value!r:.60}; it must be a whole number.")
    if name in ("scheme", "address", "store", "on_error", "workdir") and (not isinstance(value, str) or not value):
        raise InputError(f"{name} is {value!r:.60}; it must be a text.")
    if name == "workdir":
        return str(folder / value)
    if name == "store":
        check_no_password(value, "store")
        return value if is_uri(value) else str(folder / Path(value).expanduser())
    return value
