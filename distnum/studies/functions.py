"""Functions of the user, found by their names."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError
from distnum.common.text import first_line

__all__ = ["ImportPath", "check_name", "found"]

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class ImportPath:
    """Puts a folder first on the import path: of this process for a ``with`` block, of a worker when it is called.

    A worker on a machine without the folder imports what is installed there, or what a job has brought.

    Attributes:
        folder: Absolute path of the folder.
    """

    folder: str

    def __call__(self) -> None:
        if Path(self.folder).is_dir() and self.folder not in sys.path:
            sys.path.insert(0, self.folder)

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Keep the folder first on the import path for a ``with`` block."""
        sys.path.insert(0, self.folder)
        invalidate_caches()
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(self.folder)


def check_name(field: str, name: Any) -> str:
    """Return a text such as ``"module:name"``.

    Raises:
        InputError: It is another one.
    """
    module, _, rest = str(name).partition(":")
    if isinstance(name, str) and _NAME.fullmatch(name) and not module.endswith(".py"):
        return name
    meant = f"{Path(module).stem}:{rest or 'NAME'}" if module.endswith(".py") else "model:loss"
    raise InputError(f"{field} is {name!r:.60}; it must be MODULE:NAME, as in {meant}.")


def found(field: str, name: str) -> Any:
    """Return what a name such as ``"module:name"`` stands for; the module is imported.

    Raises:
        InputError: There is no such module, it cannot be imported, or it has no such name.
    """
    module_name, _, path = check_name(field, name).partition(":")
    try:
        value: Any = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(f"{field} is {name!r}, whose module {_not_imported(module_name, error)}") from None
    place = getattr(value, "__file__", None) or "built into Python"
    whole = module_name
    for part in path.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [one for one in dir(value) if not one.startswith("__")], 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(f"{field} is {name!r}, but {whole} ({place}) has no {part!r}{hint}")
        value, whole = getattr(value, part), f"{whole}.{part}"
    return value


def _not_imported(module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
        return f"is not found; it must be a file {module.replace('.', '/')}.py in {sys.path[0]!r}, or be installed."
    if isinstance(error, SystemExit):
        return f"ends its process when it is imported: sys.exit({error.code!r})."
    frames, frame = [], error.__traceback__
    while frame is not None:
        frames.append((frame.tb_frame.f_code.co_filename, frame.tb_lineno))
        frame = frame.tb_next
    file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else frames[-1]
    where = "" if str(file).startswith("<") else f" ({file}, line {line})"
    text = error.msg if isinstance(error, SyntaxError) else first_line(error)
    return f"cannot be imported: {type(error).__name__}: {text}{where}."
