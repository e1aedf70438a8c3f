"""The command ``distnum scale``."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from distnum.cli.options import config_changes, config_of_options
from distnum.cli.output import DONE, INTERRUPTED, out_folder, write_json, write_output
from distnum.common.checks import as_int
from distnum.common.errors import InputError
from distnum.common.text import duration, print_remark
from distnum.scaling.measurement import NOT_FOR_SCALE

__all__ = ["run_scale"]


def run_scale(options: argparse.Namespace) -> int:
    from distnum.common.signals import handled_signals
    from distnum.scaling.experiment import scale
    from distnum.scaling.report import scaling_report

    changes = {name: value for name, value in config_changes(options).items() if name not in NOT_FOR_SCALE}
    config = config_of_options(options).with_changes(changes)
    if options.resume and options.out is None:
        raise InputError("resume needs --out DIR, the folder of the measurements.")
    say = (lambda text: None) if options.quiet else print_remark
    numbers = partial(_numbers, options)
    with out_folder(options.out, "scaling") as name, redirect_stdout(sys.stderr), handled_signals():
        out = Path(name)
        try:
            result = scale(
                workers=numbers("workers"),
                threads=numbers("threads") or (),
                mode=options.mode,
                steps=options.steps,
                warmup=options.warmup,
                repeats=options.repeats,
                forecast=numbers("forecast") or (),
                workers_per_node=options.workers_per_node,
                gbit_per_s=options.gbit_per_s,
                out=name,
                resume=options.resume,
                config=config,
                on_start=lambda n_nodes, n: say(f"distnum: {n} measurements on {n_nodes} node{'s'[: n_nodes > 1]} ..."),
                on_measured=lambda one, n_left: say(
                    f"repeat {one.repeat}: {one.setting} worker{'s'[: one.workers > 1]}, {duration(one.step_s)} a step"
                    f" ({n_left} to go)"
                ),
            )
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
            if (out / "scaling.json").exists():
                kept = f"go on with --resume --out {shlex.quote(name)}, which has what was measured"
            else:
                kept = "nothing has been measured yet"
            print_remark(f"distnum: interrupted; {kept}.")
            return INTERRUPTED
        pictures = [out / "scaling.png", out / "scaling.svg"]
        try:
            for picture in pictures:
                result.plot(picture)
        except InputError as error:
            print_remark(f"distnum: no picture was drawn: {error}")
            pictures = []
    if options.json:
        write_json(result.to_dict() | {"folder": name})
    elif not options.quiet:
        kept = ", ".join(str(path) for path in [out / "scaling.csv", out / "scaling.json", *pictures])
        write_output(f"{scaling_report(result)}\n\nkept in   {kept}")
    return DONE


def _numbers(options: argparse.Namespace, name: str) -> list[int] | None:
    """Whole numbers separated by commas; None where the option is not given."""
    text = getattr(options, name)
    if text is None:
        return None
    try:
        return [as_int(number) for number in text.split(",")] if text else []
    except ValueError:
        raise InputError(
            f"{name} is {text!r:.60}; it must be whole numbers separated by commas, as in 1,2,4."
        ) from None
