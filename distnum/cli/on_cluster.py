"""What a submitted job runs on the cluster: checks that the node fits, then the command, the script, or packing.

Nothing is imported at the top but what every Python has: the check must be able to speak.
"""

from __future__ import annotations

import json
import os
import re
import sys

from distnum.cli.submit.transfer import RUNS, head_path
from distnum.common.requirements import REQUIREMENTS, unmet

__all__ = ["main"]

_LEAST_PYTHON = (3, 10)

# Options and arguments that name a folder of the head.
_FOLDERS = ("--out",)


def _check() -> str:
    """Why this node cannot run distnum; empty if it can."""
    if sys.version_info < _LEAST_PYTHON:
        needed = ".".join(map(str, _LEAST_PYTHON))
        return f"the cluster has Python {sys.version.split()[0]}, but distnum needs {needed} or newer."
    wrong = unmet(json.loads(os.environ.get(REQUIREMENTS, "[]")))
    if wrong:
        return f"the cluster does not fit: {'; '.join(wrong)}. Install that on every node."
    return ""


def _pack(folder: str) -> int:
    """Print a folder, packed."""
    if "://" in folder:
        import fsspec

        path = str(fsspec.core.url_to_fs(folder)[1])
    else:
        path = head_path(folder)
    if not os.path.isdir(path):
        print(f"distnum: there is no run in {path} on the cluster's head.", file=sys.stderr)
        return 2
    from distnum.cli.submit.transfer import packed

    print(packed(path), flush=True)
    return 0


def main(arguments: list[str]) -> int:
    """Run ``pack DIR``, ``script FILE ...`` or a command of distnum's; returns the exit code."""
    problem = _check()
    if problem:
        print(f"distnum: {problem}", file=sys.stderr)
        return 2
    kind, *rest = arguments
    if kind == "pack":
        return _pack(*rest)
    if kind == "script":
        import runpy

        sys.argv = rest
        sys.path.insert(0, os.path.dirname(os.path.abspath(rest[0])))
        runpy.run_path(rest[0], run_name="__main__")
        return 0
    _run(kind, rest)
    return 0


def _run(command: str, arguments: list[str]) -> None:
    """A command of distnum's, which ends the process."""
    from distnum.cli.main import run

    for number, argument in enumerate(arguments):
        if number and arguments[number - 1] in _FOLDERS:
            arguments[number] = head_path(argument)
        elif re.match("|".join(f"{option}=" for option in _FOLDERS), argument):
            option, _, value = argument.partition("=")
            arguments[number] = f"{option}={head_path(value)}"
    if command == "resume" and arguments and not arguments[0].startswith("-"):
        arguments[0] = head_path(arguments[0])
    os.makedirs(os.path.expanduser(RUNS), exist_ok=True)
    sys.argv = ["distnum", command, *arguments]
    run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
