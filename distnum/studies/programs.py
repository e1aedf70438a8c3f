"""The table ``[program]`` of a study."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError
from distnum.evaluation.programs.program import Program
from distnum.studies.values import near

__all__ = ["program_of"]

_PROGRAM = ("command", "files", "copy", "read", "stdin", "timeout", "workdir", "keep", "max_kept", "env", "shell")


def program_of(values: Any, folder: Path) -> Program:
    """Return the program of a table ``[program]``; names of files are relative to the folder of the study.

    Raises:
        InputError: A field is unknown, missing or not allowed.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"program is {values!r:.60}; it must be a table [program] with command, files and read.")
    for field in values:
        if field not in _PROGRAM:
            raise InputError(f"{field!r} is not a field of [program]; {near(field, _PROGRAM)}")
    if "command" not in values:
        raise InputError("command is missing in [program]; it must be a program with its arguments.")
    given = dict(values)
    for field, kind, allowed in (
        ("shell", bool, "true or false"),
        ("env", dict, "a table of variables"),
        ("workdir", str, "a folder"),
        ("stdin", str, "a file of the program"),
    ):
        if field in given and not isinstance(given[field], kind):
            raise InputError(f"{field} in [program] is {given[field]!r:.60}; it must be {allowed}.")
    given["command"] = _command(given["command"], folder, bool(given.get("shell", False)))
    given["files"] = _files(given.get("files", {}), folder)
    if "copy" in given:
        names = [given["copy"]] if isinstance(given["copy"], str) else given["copy"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"copy in [program] is {given['copy']!r:.60}; it must be a list of files and folders.")
        given["copy"] = [folder / name for name in names]
    if "workdir" in given:
        given["workdir"] = folder / given["workdir"]
    try:
        return Program(given.pop("command"), **given)
    except InputError as error:
        raise InputError(f"[program]: {error}") from None


def _command(command: Any, folder: Path, shell: bool) -> Any:
    """A command whose program, if it is named with a folder, is that of the study's folder."""
    if shell or not command:
        return command
    try:
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except (ValueError, TypeError) as error:
        raise InputError(f"command in [program] is {command!r:.60}; it must be a program: {error}.") from None
    if words and Path(words[0]).name != words[0] and (folder / words[0]).exists():
        words[0] = str(folder / words[0])
    return words


def _files(files: Any, folder: Path) -> dict[str, Any]:
    """The input files of a program: a list of files with places for numbers, or texts or such files by name."""
    if isinstance(files, str):
        files = [files]
    named = (
        {Path(name).name if isinstance(name, str) else name: name for name in files}
        if isinstance(files, list)
        else files
    )
    if not isinstance(named, Mapping) or not all(isinstance(one, str) for pair in named.items() for one in pair):
        raise InputError(
            f"files in [program] is {files!r:.60}; it must be a list of files, or a table of files, or of texts with "
            "${NAME}, by name."
        )
    return {
        name: content if "${" in content or "\n" in content else folder / content for name, content in named.items()
    }
