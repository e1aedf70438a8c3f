"""What the command line can say: the commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from distnum.common.errors import InputError
from distnum.common.version import __version__
from distnum.scaling.measurement import NOT_FOR_SCALE
from distnum.storage.files import read_toml
from distnum.training.config import KEEPING, Config

__all__ = ["config_changes", "config_of_options", "parsed"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says; what ``submit`` does not know is for the command that it submits."""
    if "submit" not in arguments[:1]:
        return _parser().parse_args(arguments)
    options, rest = _parser().parse_known_args(arguments)
    options.rest = rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="distnum",
        description="Train networks by numerical gradients, distributed over Ray. No backpropagation.",
        epilog="distnum COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distnum {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    train = _command(commands, "train", "train a network, by default on the digits in the package")
    train.add_argument("--out", metavar="DIR", help="folder or URI to keep the run in (default: runs/DATE-TIME)")
    train.add_argument("--config", metavar="FILE", help="TOML file with fields to begin with; options override them")
    _add_config_options(train, [item.name for item in fields(Config)])
    _add_output_options(train)

    resume = _command(commands, "resume", "continue a run that was interrupted, to the same bits")
    resume.add_argument("dir", metavar="DIR", help="folder of the run")
    where = ["workers", "threads_per_worker", "address", "resources", "step_deadline", "wait_for_workers"]
    _add_config_options(resume, [*where, "on_nonfinite", "on_write_error"])
    resume.add_argument("--steps", metavar="N", dest="steps", help="train to this step instead of the planned one")
    _add_output_options(resume)

    evaluate = _command(commands, "evaluate", "measure a trained network on test examples")
    evaluate.add_argument("dir", metavar="DIR", help="folder of the run")
    evaluate.add_argument("--data", metavar="DATA", help="other data than it was trained on")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    predict = _command(commands, "predict", "label images with a trained network")
    predict.add_argument("dir", metavar="DIR", help="folder of the run")
    predict.add_argument("file", metavar="FILE", nargs="+", help="a picture (PNG, ...) or a .npy array of examples")
    predict.add_argument("--invert", action="store_true", help="the picture is dark on light")
    predict.add_argument("--json", action="store_true", help="print one JSON object")

    scale = _command(
        commands, "scale", "measure how the steps of a training scale with workers, and how they would go on"
    )
    _add_scale_options(scale)
    names = [
        item.name for item in fields(Config) if item.name not in NOT_FOR_SCALE and item.metadata["group"] != KEEPING
    ]
    _add_config_options(scale, names)

    submit = _command(commands, "submit", "run a command on a Ray cluster, by the address of its dashboard")
    submit.usage = "distnum submit --address http://HEAD:8265 [options] [train | resume DIR | scale] [its arguments]"
    _add_submit_options(submit)

    plot = _command(commands, "plot", "draw the loss curve and the learned weights of a run")
    plot.add_argument("dir", metavar="DIR", help="folder of the run")
    plot.add_argument("--out", metavar="DIR", help="folder for the pictures (default: the run's)")
    return parser


def _command(commands: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(command=name)
    return parser


def _add_config_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    groups: dict[str, Any] = {}
    for item in fields(Config):
        if item.name not in names:
            continue
        title = item.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        kind = item.metadata["kind"]
        choices = kind.allowed.removeprefix("one of ").split(", ") if kind.allowed.startswith("one of ") else None
        metavar = item.metadata["metavar"] or ("{" + ",".join(choices) + "}" if choices else None)
        default = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
        shown = "" if default is None else f" (default: {default})"
        help = (item.metadata["help"] + shown).replace("%", "%%")
        group.add_argument(
            f"--{item.name.replace('_', '-')}", dest=item.name, metavar=metavar, default=argparse.SUPPRESS, help=help
        )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument("--workers", metavar="N,N", help="numbers of workers (default: 1,2,4,... up to the cores)")
    group.add_argument("--threads", metavar="N,N", default="1", help="threads of each worker (default: 1)")
    group.add_argument(
        "--mode", metavar="{strong,weak}", default="strong", help="the same steps for all, or a batch that grows"
    )
    group.add_argument("--steps", metavar="N", default="20", help="steps of a measurement (default: 20)")
    group.add_argument("--warmup", metavar="N", default="3", help="steps before them (default: 3)")
    group.add_argument(
        "--repeats", metavar="N", default="5", help="measurements of each setting, in turns (default: 5)"
    )
    group = parser.add_argument_group("what is foretold")
    group.add_argument("--forecast", metavar="N,N", help="numbers of workers to foretell")
    group.add_argument("--workers-per-node", metavar="N", help="of a forecast (default: the most that were measured)")
    group.add_argument("--gbit-per-s", metavar="X", default="10", help="assumed between unmeasured nodes (default: 10)")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", metavar="DIR", help="folder for scaling.csv, .json, .png, .svg (default: scaling/DATE-TIME)"
    )
    group.add_argument("--resume", action="store_true", help="measure only what is missing in --out")
    group.add_argument("--config", metavar="FILE", help="TOML file with fields to begin with; options override them")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "What else is given is for the command on the cluster, by default train. Its run is kept on the cluster's "
        "head, a relative --out below ~/distnum-runs. Exit code: the job's own; 130 if it was stopped."
    )
    group = parser.add_argument_group("the cluster")
    group.add_argument("--address", metavar="URL", help="http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)")
    group.add_argument("--token-file", metavar="FILE", help="holds the cluster's token (default: RAY_AUTH_TOKEN)")
    group.add_argument("--ca-file", metavar="FILE", help="certificates to trust for https")
    group = parser.add_argument_group("what to do")
    group.add_argument("--script", metavar="FILE", help="run this Python file, sent with its folder, not a command")
    group.add_argument("--no-wait", action="store_true", help="print the job's ID and do not follow it")
    group.add_argument("--list", action="store_true", help="list distnum's jobs there")
    group.add_argument("--follow", metavar="ID", help="print what a job prints, from its beginning to its end")
    group.add_argument("--stop", metavar="ID", help="end a job, as SIGTERM does: a training saves its state")
    group.add_argument("--fetch", metavar="ID", help="bring a job's run here, into --to")
    group.add_argument("--to", metavar="DIR", help="folder for --fetch (default: runs/ID)")


def config_changes(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a configuration that the options set."""
    names = {item.name for item in fields(Config)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


def config_of_options(options: argparse.Namespace) -> Config:
    """The configuration in the file that the options name, or the defaults."""
    from distnum.training.config import config_of

    return Config() if options.config is None else config_of(read_toml(Path(options.config)), options.config)
