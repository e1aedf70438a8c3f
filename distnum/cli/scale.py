"""The command ``distnum scale``."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path

from distnum.cli.options import Command, add_training_options, config_changes, config_of_options
from distnum.cli.output import DONE, INTERRUPTED, out_folder, write_json, write_output
from distnum.common.checks import as_int
from distnum.common.errors import InputError
from distnum.common.text import duration, print_remark
from distnum.scaling.measurement import NOT_FOR_SCALE
from distnum.training.config import KEEPING, Config

__all__ = ["SCALE", "check_resume"]


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the measurements")
    group.add_argument("--workers", metavar="N,N", help="numbers of workers (default: 1,2,4,... up to the cores)")
    group.add_argument("--threads", metavar="N,N", default="1", help="threads of each worker (default: 1)")
    group.add_argument(
        "--mode",
        metavar="{strong,weak}",
        default="strong",
        help="strong: the same batch for all; weak: the batch grows with the workers (default: strong)",
    )
    group.add_argument("--steps", metavar="N", default="20", help="steps of one measurement (default: 20)")
    group.add_argument("--warmup", metavar="N", default="3", help="steps before a measurement begins (default: 3)")
    group.add_argument(
        "--repeats", metavar="N", default="5", help="measurements of each setting; settings take turns (default: 5)"
    )
    group.add_argument("--resume", action="store_true", help="measure only what is missing in the folder --out")
    group = parser.add_argument_group("the forecast")
    group.add_argument("--forecast", metavar="N,N", help="numbers of workers to forecast, e.g. 16,64")
    group.add_argument(
        "--workers-per-node", metavar="N", help="workers on each node of the forecast (default: the most measured)"
    )
    group.add_argument(
        "--gbit-per-s",
        metavar="X",
        default="10",
        help="network speed to assume between nodes if only one node is measured (default: 10)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for scaling.csv, scaling.json and the pictures (default: scaling/DATE-TIME)",
    )
    names = [item.name for item in fields(Config) if item.metadata["group"] != KEEPING]
    add_training_options(parser, [name for name in names if name not in NOT_FOR_SCALE])


def check_resume(options: argparse.Namespace) -> None:
    """Raise ``InputError`` if ``--resume`` is given without ``--out``."""
    if options.resume and options.out is None:
        raise InputError("resume needs --out DIR, the folder of the measurements.")


def _scale(options: argparse.Namespace) -> int:
    from distnum.common.signals import handled_signals
    from distnum.scaling.experiment import scale
    from distnum.scaling.report import scaling_report

    changes = {name: value for name, value in config_changes(options).items() if name not in NOT_FOR_SCALE}
    config = config_of_options(options).with_changes(changes)
    check_resume(options)
    remark = (lambda text: None) if options.quiet else print_remark
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
                on_start=lambda n_nodes, n: remark(
                    f"distnum: {n} measurements on {n_nodes} node{'s'[: n_nodes > 1]} ..."
                ),
                on_measured=lambda measurement, n_left: remark(
                    f"repeat {measurement.repeat}: {measurement.setting} worker{'s'[: measurement.workers > 1]}, "
                    f"{duration(measurement.step_s)} a step ({n_left} to go)"
                ),
            )
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
            if (out / "scaling.json").exists():
                state = f"the measurements are saved. Continue with --resume --out {shlex.quote(name)}"
            else:
                state = "nothing has been measured yet."
            print_remark(f"distnum: interrupted; {state}")
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
    """The whole numbers of an option, which are separated by commas; None if the option is not given."""
    text = getattr(options, name)
    if text is None:
        return None
    try:
        return [as_int(number) for number in text.split(",")] if text else []
    except ValueError:
        raise InputError(
            f"{name} is {text!r:.60}; it must be whole numbers separated by commas, as in 1,2,4."
        ) from None


SCALE = Command("scale", "measure how training speeds up with workers, and forecast more workers", _add_options, _scale)
