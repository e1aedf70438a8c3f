"""The command that ``submit`` sends to a cluster."""

from __future__ import annotations

import argparse

from distnum.config import Config
from distnum.errors import InputError
from distnum.options import NOT_FOR_SCALE, config_changes, config_of_options, parsed
from distnum.uris import check_no_password

__all__ = ["submitted_command"]


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
