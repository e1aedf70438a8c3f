"""The parser of the command line, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from distnum.cli.output import write_output
from distnum.common.errors import InputError
from distnum.common.version import __version__
from distnum.storage.files import read_toml
from distnum.training.config import Config, config_of
from distnum.training.from_files import without_connections

__all__ = ["Command", "add_training_options", "config_changes", "config_of_options", "parsed"]


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: The word after ``distnum``.
        help: What the command does, as a phrase in lower case.
        add_options: Declares the command's arguments and options.
        run: Runs the command with the parsed options and returns the exit code.
        passes_on: Whether arguments that the command does not know are kept, in ``options.rest``, instead of
            refused.
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    passes_on: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Help and version. argparse itself would ignore an output that cannot be written.
        write_output(message, end="")


def parsed(arguments: Sequence[str], commands: Iterable[Command]) -> argparse.Namespace:
    """Parse a command line that begins with one of the commands.

    Returns:
        The options, with the ``Command`` as ``command`` and the arguments to pass on as ``rest``.

    Raises:
        InputError: The command line is not valid.
        SystemExit: Help or the version was printed.
    """
    parser = _Parser(
        prog="distnum",
        description="Train networks by numerical gradients, distributed over Ray. No backpropagation.",
        epilog="distnum COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distnum {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for command in commands:
        description = f"{command.help[0].upper()}{command.help[1:]}."
        subparser = subparsers.add_parser(command.name, help=command.help, description=description, allow_abbrev=False)
        subparser.set_defaults(command=command)
        command.add_options(subparser)
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.command.passes_on:
        raise InputError(f"unrecognized arguments: {' '.join(rest)}; see distnum {options.command.name} --help")
    options.rest = rest
    return options


def add_training_options(parser: argparse.ArgumentParser, names: Iterable[str], new: bool = True) -> None:
    """Add an option for each of these fields of ``Config``, in its order and groups, ``--quiet`` and ``--json``.

    For a new run also add ``--config``, and show the defaults of the fields; others keep the run's own values.
    """
    if new:
        parser.add_argument(
            "--config", metavar="FILE", help="TOML file with values of the options below, which override it"
        )
    groups: dict[str, Any] = {}
    for item in fields(Config):
        if item.name not in names:
            continue
        title = item.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        allowed = item.metadata["check"].allowed
        metavar = item.metadata["metavar"]
        if metavar is None and allowed.startswith("one of "):
            metavar = "{" + allowed.removeprefix("one of ").replace(", ", ",") + "}"
        default = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
        shown = "" if default is None or not new else f" (default: {default})"
        groups[title].add_argument(
            f"--{item.name.replace('_', '-')}",
            dest=item.name,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=(item.metadata["help"] + shown).replace("%", "%%"),
        )
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


def config_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a configuration that the options set."""
    names = {item.name for item in fields(Config)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


def config_of_options(options: argparse.Namespace, on_a_cluster: bool = False) -> Config:
    """Return the configuration in the file of ``--config``, without the address of a cluster; or the defaults.

    Args:
        options: The parsed options.
        on_a_cluster: Whether the command is submitted to a cluster, so that an address in the file does not matter.

    Raises:
        InputError: The file cannot be read, holds a field or value that is not allowed, or names a cluster or a URI
            that the options do not name.
    """
    if options.config is None:
        return Config()
    given = config_changes(options) | ({"address": None} if on_a_cluster else {})
    return without_connections(config_of(read_toml(Path(options.config)), options.config), given, options.config)
