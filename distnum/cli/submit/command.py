"""The command that ``submit`` sends to a cluster."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from distnum.cli.options import config_changes, config_of_options, parsed
from distnum.cli.output import DONE, INTERRUPTED, write_output
from distnum.common.errors import InputError
from distnum.common.text import print_remark
from distnum.scaling.measurement import NOT_FOR_SCALE
from distnum.storage.uris import check_no_password
from distnum.training.config import Config

__all__ = ["run_submit", "submitted_command"]


def submitted_command(options: argparse.Namespace) -> list[str]:
    """The command for the cluster, checked here; what a file of this machine says is spelled out."""
    rest = list(options.rest)
    if options.script:
        return rest[1:] if rest[:1] == ["--"] else rest
    command = rest.pop(0) if rest and rest[0] in ("train", "resume", "scale") else "train"
    asked = parsed([command, *rest])
    changes = config_changes(asked)
    if "address" in changes:
        raise InputError("address is given twice; the command runs on the cluster that it is submitted to.")
    if command == "resume":
        # First, where it is looked for.
        without = ([*rest[:at], *rest[at + 1 :]] for at in range(len(rest)))
        options_only = next((others for others in without if _same(asked, [command, asked.dir, *others])), None)
        if options_only is None:
            raise InputError(f"dir is {asked.dir!r}; it must stand before the options.")
        rest = [asked.dir, *options_only]
    name = getattr(asked, "config", None)
    config = Config() if name is None else config_of_options(asked)
    ignored = NOT_FOR_SCALE if command == "scale" else ()
    # Refuses here what would be refused there.
    merged = config.with_changes({key: value for key, value in changes.items() if key not in ignored})
    places = {"out": getattr(asked, "out", None), "dir": getattr(asked, "dir", None), "data": merged.data}
    for field, place in places.items():
        if place == "":
            raise InputError(f"{field} is ''; it must name a folder or a URI.")
        check_no_password(place, field)
    if merged.workers == 0 and command != "scale":
        raise InputError("workers is 0, which uses no Ray; a job on a cluster needs one at least.")
    if command == "scale" and asked.resume and asked.out is None:
        raise InputError("resume needs --out DIR, the folder of the measurements.")
    for flag in ("--config", f"--config={name}"):
        while flag in rest:
            at = rest.index(flag)
            del rest[at : at + (2 if flag == "--config" else 1)]
    spelled = []
    defaults = Config().to_dict()
    for key, value in config.to_dict().items():
        if value != defaults.get(key) and key not in ignored:
            text = ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
            spelled += [f"--{key.replace('_', '-')}", text]
    return [command, *spelled, *rest]


def _same(asked: argparse.Namespace, arguments: list[str]) -> bool:
    """Whether these arguments say the same."""
    try:
        return parsed(arguments) == asked
    except InputError:
        return False


def run_submit(options: argparse.Namespace) -> int:
    from distnum.cli.submit.client import Cluster

    chosen = [name for name in ("list", "follow", "stop", "fetch") if getattr(options, name) not in (None, False)]
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} are given; choose one of them.")
    if chosen and (options.rest or options.script):
        raise InputError(f"{(options.rest or [options.script])[0]!r} is given with --{chosen[0]}; leave it out.")
    if chosen and getattr(options, chosen[0]) == "":
        raise InputError(f"{chosen[0]} is ''; it must be the number of a job, as --list tells it.")
    command = [] if chosen else submitted_command(options)
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise InputError("address is missing; give --address http://HEAD:8265, that of the cluster's dashboard.")
    files = [None if name is None else Path(name) for name in (options.token_file, options.ca_file, options.script)]
    cluster = Cluster(address, *files[:2])
    if options.list:
        for job in cluster.jobs():
            began = f"{job.started:%Y-%m-%d %H:%M:%S}" if job.started else "-"
            write_output(f"{job.number}  {job.status:<9}  {began:<19}  {job.command}")
        return DONE
    if options.stop:
        job = cluster.stop(options.stop)
        write_output(f"{job.number}  {job.status}")
        return DONE
    if options.fetch:
        write_output(str(cluster.fetch(options.fetch, Path(options.to or f"runs/{options.fetch}"))))
        return DONE
    number = options.follow
    if number is None:
        job = cluster.submit(command, files[2])
        if options.no_wait:
            write_output(job.number)
            return DONE
        number = job.number
        print_remark(f"distnum: job {number} on {address}")
    try:
        code = cluster.follow(number, partial(write_output, end=""))
    except KeyboardInterrupt:
        submit = f"distnum submit --address {address}"
        print_remark(f"distnum: job {number} goes on. Follow it with: {submit} --follow {number}")
        print_remark(f"distnum: or end it with: {submit} --stop {number}")
        return INTERRUPTED
    if code == INTERRUPTED:
        print_remark(f"distnum: job {number} was stopped.")
    elif not options.script and code == DONE:
        print_remark(f"distnum: bring the run here with: distnum submit --address {address} --fetch {number}")
    return code
