"""Run on a cluster's head by a submitted job: checks the versions, then runs a command or a script, or packs a run.

Started as ``python -m distnum.cli.on_cluster``; nothing imports it. Importing it loads the standard
library and ``distnum.common.requirements`` only, and needs no syntax newer than Python 3.7, so that
the check can report an old Python or a missing package.
"""

from __future__ import annotations

import json
import os
import sys

from distnum.common.requirements import REQUIREMENTS, unmet

__all__ = ["main"]

_LEAST_PYTHON = (3, 10)


def main(arguments: list[str]) -> int:
    """Run ``pack FOLDER``, ``script FILE [ARGUMENT ...]`` or a command of distnum, and return the exit code."""
    problem = _misfit()
    if problem:
        return _complain(problem, 2)
    kind, *rest = arguments
    if kind == "pack":
        return _pack(*rest)
    if kind == "script":
        import runpy

        sys.argv = rest
        sys.path.insert(0, os.path.dirname(os.path.abspath(rest[0])))
        runpy.run_path(rest[0], run_name="__main__")
        return 0
    return _run(kind, rest)


def _misfit() -> str:
    """Why this node cannot run distnum; empty if it can."""
    if sys.version_info < _LEAST_PYTHON:
        needed = ".".join(map(str, _LEAST_PYTHON))
        return f"the cluster has Python {sys.version.split()[0]}, but distnum needs {needed} or newer."
    wrong = unmet(json.loads(os.environ.get(REQUIREMENTS, "[]")))
    if wrong:
        return f"the cluster does not fit: {'; '.join(wrong)}. Install that on every node."
    return ""


def _complain(message: str, code: int) -> int:
    print(f"distnum: {message}", file=sys.stderr)
    return code


def _pack(name: str) -> int:
    """Print the run in a folder of the head, or at the URI of a disk, packed."""
    from distnum.cli.output import write_output
    from distnum.cli.submit.transfer import head_path, packed
    from distnum.common.errors import TrainingError

    if "://" in name:
        import fsspec

        folder = str(fsspec.core.url_to_fs(name)[1])
    else:
        folder = head_path(name)
    if not os.path.isdir(folder):
        return _complain(f"there is no run in {folder} on the cluster's head.", 2)
    try:
        write_output(packed(folder))
    except OSError as error:
        return _complain(f"{error.filename or folder} on the cluster's head cannot be read: {error.strerror}.", 1)
    except TrainingError as error:
        return _complain(str(error), 1)
    return 0


def _run(command: str, arguments: list[str]) -> int:
    """Run a command of distnum, with its folders on the head."""
    from distnum.cli.main import run
    from distnum.cli.submit.transfer import RUNS, on_head

    os.makedirs(os.path.expanduser(RUNS), exist_ok=True)
    sys.argv = ["distnum", *on_head([command, *arguments])]
    run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
