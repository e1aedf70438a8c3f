"""The commands ``differentiate`` and ``check`` as jobs: what travels with them, and their options on the head."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distnum.cli.check import CHECK
from distnum.cli.differentiate import DIFFERENTIATE, changes_of, study_of
from distnum.cli.options import Command, parsed
from distnum.common.errors import InputError
from distnum.storage.uris import check_no_password, is_uri

__all__ = ["STUDY_COMMANDS", "submitted_study"]

STUDY_COMMANDS: tuple[Command, ...] = (DIFFERENTIATE, CHECK)


def submitted_study(words: Sequence[str]) -> tuple[list[str], Path]:
    """Return the command for the cluster, and the folder that is sent with it: that of the study, or this one.

    The study is checked here, but for its function, which may need what only the cluster has. A store with a relative
    name is kept below ``~/distnum-runs`` on the head, where the next job finds it; one below the folder would be
    removed with the job.

    Args:
        words: The command and its options.

    Raises:
        InputError: The cluster would refuse the command, or a location holds a password.
    """
    asked = parsed(words, STUDY_COMMANDS)
    if asked.address is not None:
        raise InputError("address is given twice; the command runs on the cluster that it is submitted to.")
    out = getattr(asked, "out", None)
    if out == "":
        raise InputError("out is ''; it must name a folder or a URI.")
    check_no_password(out, "out")
    name = asked.study if asked.command is DIFFERENTIATE else asked.function
    of_study = asked.command is DIFFERENTIATE or name.endswith(".toml")
    folder = Path(name).absolute().parent if of_study else Path.cwd()
    effective = _checked(asked, of_study)
    if effective.get("workers") == 0:
        raise InputError("workers is 0, which uses no Ray; a job on a cluster needs at least one worker.")
    words_of = {"workers": str(effective.get("workers", "auto"))}
    if effective.get("store") is not None:
        words_of["store"] = _store_on_head(effective["store"], folder)
    defaults = vars(parsed([asked.command.name, name], STUDY_COMMANDS))
    given = {option: value for option, value in vars(asked).items() if value != defaults.get(option)} | words_of
    if given.get("x"):
        given["x"] = [_in_folder(word, folder) for word in given["x"]]
    return [asked.command.name, Path(name).name if of_study else name, *_as_words(given)], folder


def _checked(asked: argparse.Namespace, of_study: bool) -> dict[str, Any]:
    """The options of the study and of the command line, checked together."""
    from distnum.studies.functions import check_name
    from distnum.studies.study import Study

    if asked.command is DIFFERENTIATE:
        return study_of(asked)[0].options
    changes = changes_of(asked)
    for field in ("function", "gradient"):
        if getattr(asked, field) is not None and not (field == "function" and of_study):
            check_name(field, getattr(asked, field))
    if not of_study:
        return changes
    study = Study.read(asked.function).with_options(changes)
    study.check(changes)
    return study.options


def _store_on_head(store: str, folder: Path) -> str:
    if is_uri(store) or not Path(store).is_relative_to(folder):
        return store
    return Path(store).relative_to(folder).as_posix()


def _in_folder(word: str, folder: Path) -> str:
    """A word of ``--x``, with the name of a file relative to the folder that is sent."""
    if not word.endswith((".npy", ".npz")) or is_uri(word):
        return word
    path = Path(word).absolute()
    if not path.is_file():
        raise InputError(f"x is {word!r}, which is not found.")
    if not path.is_relative_to(folder):
        raise InputError(f"x is {word!r}, which is outside of {str(folder)!r}, the folder that is sent; copy it there.")
    return path.relative_to(folder).as_posix()


def _as_words(values: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list) and not any(word.startswith("-") for word in value):
            words += [option, *value]
        else:
            words.append(f"{option}={value[0] if isinstance(value, list) else value}")
    return words
