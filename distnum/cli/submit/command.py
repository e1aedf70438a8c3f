"""The command ``distnum submit``: its options, and the command that it sends to the cluster."""

from __future__ import annotations

import argparse
import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnum.cli.check import CHECK
from distnum.cli.options import Command, config_changes, config_of_options, parsed
from distnum.cli.output import DONE, INTERRUPTED, write_output
from distnum.cli.scale import SCALE, check_resume
from distnum.cli.submit.studies import STUDY_COMMANDS, submitted_study
from distnum.cli.train import RESUME, TRAIN
from distnum.common.errors import InputError
from distnum.common.text import print_remark, printable
from distnum.scaling.measurement import NOT_FOR_SCALE
from distnum.storage.uris import check_no_password
from distnum.training.config import Config

if TYPE_CHECKING:
    from distnum.cli.submit.client import Cluster

__all__ = ["SUBMIT", "submitted_command"]

_COMMANDS = (TRAIN, RESUME, SCALE)
_ACTIONS = ("list", "follow", "stop", "fetch")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "distnum submit --address http://HEAD:8265 [options]\n       [train | resume ID | scale] [options]\n"
        "       distnum submit --address http://HEAD:8265 [options] differentiate STUDY.toml [options]"
    )
    parser.epilog = (
        "Further arguments are the command that runs on the cluster, by default train, and its options. Its run is "
        "kept on the cluster's head, by default in ~/distnum-runs/ID; a relative --out or --store is below "
        "~/distnum-runs. A study is sent with its folder. The "
        "exit code is the job's own, or 130 if the job was stopped."
    )
    group = parser.add_argument_group("the cluster")
    group.add_argument(
        "--address", metavar="URL", help="its dashboard, as http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)"
    )
    group.add_argument("--token-file", metavar="FILE", help="file with its token (default: RAY_AUTH_TOKEN)")
    group.add_argument("--ca-file", metavar="FILE", help="certificates to trust for https")
    group = parser.add_argument_group("what to do, instead of running a command")
    group.add_argument("--script", metavar="FILE", help="run a Python file, sent with its folder")
    group.add_argument("--list", action="store_true", help="list the jobs that distnum has submitted")
    group.add_argument("--follow", metavar="ID", help="print the output of a job, from the beginning to its end")
    group.add_argument("--stop", metavar="ID", help="end a job; a training finishes its step and saves its state")
    group.add_argument("--fetch", metavar="ID", help="copy the run of a job to this machine")
    group.add_argument("--to", metavar="DIR", help="folder for --fetch, new or empty (default: runs/ID)")
    parser.add_argument("--no-wait", action="store_true", help="print the job's ID instead of following the job")


def submitted_command(options: argparse.Namespace) -> list[str]:
    """Return the command for the cluster, or the arguments of the script.

    Values are checked here, before anything is sent. The fields of a file given by ``--config``, which is not on
    the cluster, become options.

    Raises:
        InputError: The cluster would refuse the command, or its location holds a password.
    """
    rest = list(options.rest)
    if options.script:
        return rest[1:] if rest[:1] == ["--"] else rest
    command = rest.pop(0) if rest and not rest[0].startswith("-") else TRAIN.name
    if command in [one.name for one in STUDY_COMMANDS]:
        return submitted_study([command, *rest])[0]
    if command not in [one.name for one in _COMMANDS]:
        raise InputError(
            f"command is {command!r}; on a cluster it must be train, resume, scale, differentiate or check."
        )
    asked = parsed([command, *rest], _COMMANDS)
    locations = {name: getattr(asked, name, None) for name in ("out", "dir")}
    changes = config_changes(asked)
    if "address" in changes:
        raise InputError("address is given twice; the command runs on the cluster that it is submitted to.")
    ignored = NOT_FOR_SCALE if command == SCALE.name else ()
    config = config_of_options(asked, on_a_cluster=True) if getattr(asked, "config", None) is not None else Config()
    merged = config.with_changes({name: value for name, value in changes.items() if name not in ignored})
    for name, location in (locations | {"data": merged.data}).items():
        if location == "":
            raise InputError(f"{name} is ''; it must name a folder or a URI.")
        check_no_password(location, name)
    if command == SCALE.name:
        check_resume(asked)
    elif merged.workers == 0:
        raise InputError("workers is 0, which uses no Ray; a job on a cluster needs at least one worker.")
    usual = Config().to_dict()
    of_file = {
        name: ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        for name, value in config.to_dict().items()
        if name not in {*changes, *ignored, "address"} and value != usual.get(name)
    }
    folder = [] if locations["dir"] is None else [locations["dir"]]
    if folder and folder[0].startswith("-"):
        raise InputError(f"dir is {folder[0]!r}, which begins like an option; write it as './{folder[0]}'.")
    defaults = vars(parsed([command, *folder], _COMMANDS)) | {"config": getattr(asked, "config", None)}
    given = {name: value for name, value in vars(asked).items() if value != defaults.get(name)}
    return [command, *folder, *_as_options(of_file | given)]


def _as_options(values: dict[str, Any]) -> list[str]:
    """The command line of these options; True stands for an option without a value."""
    words = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value.startswith("-"):
            words.append(f"{option}={value}")
        else:
            words += [option, value]
    return words


def _submit(options: argparse.Namespace) -> int:
    from distnum.cli.submit.client import Cluster

    actions = [name for name in _ACTIONS if getattr(options, name) not in (None, False)]
    if len(actions) > 1:
        raise InputError(f"--{actions[0]} and --{actions[1]} are given; give one only.")
    if actions and (options.rest or options.script):
        raise InputError(f"{(options.rest or [options.script])[0]!r} is given with --{actions[0]}; leave it out.")
    if actions and getattr(options, actions[0]) == "":
        raise InputError(f"{actions[0]} is ''; it must be the ID of a job, as --list prints it.")
    command = [] if actions else submitted_command(options)
    of_study = not options.script and command[:1] in [[one.name] for one in STUDY_COMMANDS]
    folder = submitted_study(options.rest)[1] if of_study else None
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise InputError("address is missing; give --address http://HEAD:8265, the address of the cluster's dashboard.")
    files = [None if name is None else Path(name) for name in (options.token_file, options.ca_file, options.script)]
    cluster = Cluster(address, *files[:2])
    if options.list:
        for job in cluster.jobs():
            began = f"{job.started:%Y-%m-%d %H:%M:%S}" if job.started else "-"
            # The fields come from the cluster, whose other users can write them.
            write_output(printable(f"{job.number}  {job.status:<9}  {began:<19}  {job.command}"))
        return DONE
    if options.stop:
        job = cluster.stop(options.stop)
        write_output(printable(f"{job.number}  {job.status}"))
        return DONE
    if options.fetch:
        write_output(str(cluster.fetch(options.fetch, Path(options.to or f"runs/{options.fetch}"))))
        return DONE
    number = options.follow
    if number is None:
        number = cluster.submit(command, files[2], folder).number
        if options.no_wait:
            write_output(number)
            return DONE
        print_remark(f"distnum: job {number} on {address}")
    can_fetch = not options.script and command[:1] != [CHECK.name]
    return _follow(cluster, number, f"distnum submit --address {shlex.quote(address)}", can_fetch=can_fetch)


def _follow(cluster: Cluster, number: str, submit: str, can_fetch: bool) -> int:
    try:
        code = cluster.follow(number, partial(write_output, end=""))
    except KeyboardInterrupt:
        print_remark(f"distnum: job {number} continues. Follow it with: {submit} --follow {number}")
        print_remark(f"distnum: or end it with: {submit} --stop {number}")
        return INTERRUPTED
    if code == INTERRUPTED:
        print_remark(f"distnum: job {number} was stopped.")
    elif can_fetch and code == DONE:
        print_remark(f"distnum: copy the run to this machine with: {submit} --fetch {number}")
    return code


SUBMIT = Command("submit", "run a command on a Ray cluster, from outside of it", _add_options, _submit, passes_on=True)
