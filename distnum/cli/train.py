"""The commands ``distnum train`` and ``distnum resume``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from distnum.cli.options import Command, add_training_options, config_changes, config_of_options
from distnum.cli.output import DONE, INTERRUPTED, out_folder, write_json, write_output
from distnum.common.errors import InputError, LostError, TrainingError
from distnum.common.text import duration, print_remark
from distnum.storage.remote import run_exists
from distnum.training.config import Config, config_of

if TYPE_CHECKING:
    from distnum.storage.run_folder import RunFolder
    from distnum.training.result import TrainResult

__all__ = ["RESUME", "TRAIN"]

_WHERE = ("workers", "threads_per_worker", "address", "resources", "step_deadline", "wait_for_workers")
_FIELDS_OF_RESUME = ("data", *_WHERE, "on_nonfinite", "on_write_error")


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", help="folder or URI to keep the run in (default: runs/DATE-TIME)")
    add_training_options(parser, [item.name for item in fields(Config)])


def _train(options: argparse.Namespace) -> int:
    config = config_of_options(options).with_changes(config_changes(options))
    with out_folder(options.out, "runs") as out:
        return _run_training(options, config=config, out=out)


def _add_resume_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "By default all values are those of the run."
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the run")
    parser.add_argument("--steps", metavar="N", help="train up to this step")
    add_training_options(parser, _FIELDS_OF_RESUME, new=False)


def _resume(options: argparse.Namespace) -> int:
    from distnum.storage.run_folder import RunFolder

    run = RunFolder.look(options.dir)
    changes = config_changes(options)
    Config().with_changes(changes)  # refuses bad values even if the run is complete
    values = {name: value for name, value in run.config_values().items() if name != "objective"}
    result = run.result(config_of(values, str(run.config_file)).steps)
    if result is None or "steps" in changes or not _has_valid_model(run):
        return _run_training(options, out=run.name, resume=True, **changes)
    if not options.quiet:
        print_remark(
            f"distnum: run {options.dir!r} is complete; there is nothing to resume. To train further, give --steps N."
        )
    if options.json:
        write_json(result | {"folder": run.name})
    return DONE


def _has_valid_model(run: RunFolder) -> bool:
    from distnum.networks.model import load_model

    if run.config_values().get("objective") == "python":
        return True
    try:
        load_model(run)
    except InputError as error:
        logging.getLogger("distnum").warning("%s It is written again.", error)
        return False
    return True


def _run_training(options: argparse.Namespace, out: str, **arguments: Any) -> int:
    from distnum.training.display import Display
    from distnum.training.train import train

    display = Display(out, quiet=options.quiet)
    # Ray reports a lost worker on the standard output, which is for results.
    with display.handling_signals(), redirect_stdout(sys.stderr):
        try:
            result = train(
                out=out, on_prepared=display.prepared, on_start=display.started, on_step=display.stepped, **arguments
            )
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
            display.close()
            return _interrupted(out)
        except LostError as error:
            display.close()
            if not run_exists(out):
                raise
            raise TrainingError(
                f"{error} The run is saved. Continue with: distnum resume {shlex.quote(out)}"
            ) from error
        finally:
            display.close()
    if not result.completed:
        return _interrupted(out)
    if not result.kept:
        raise TrainingError(
            "all steps are done, but the model and the result are not written to the run. When they can be written, "
            f"continue with: distnum resume {shlex.quote(out)}"
        )
    if options.json:
        write_json(result.to_dict() | {"folder": out})
    elif not options.quiet:
        _print_result(result)
    return DONE


def _interrupted(out: str) -> int:
    try:
        if run_exists(out):
            print_remark(f"distnum: interrupted; the run is saved. Continue with: distnum resume {shlex.quote(out)}")
        else:
            print_remark("distnum: interrupted before the run began.")
    except InputError as error:
        print_remark(f"distnum: interrupted; whether the run is saved is not known: {error}")
    return INTERRUPTED


def _print_result(result: TrainResult) -> None:
    last = result.metrics[-1]
    parts = [f"loss {result.loss:.4f}"]
    if result.test is not None:
        parts.append(f"test loss {result.test.loss:.4f}")
        if result.test_accuracy is not None:
            parts.append(f"test accuracy {result.test_accuracy:.4f}")
    write_output(
        f"trained   {last['step']:,} steps in {duration(result.seconds['steps'])}, this command "
        f"{duration(result.seconds['total'])}: {', '.join(parts)}\n"
        f"params    sha256 {result.params_sha256}\n"
        f"kept in   {result.folder}"
    )


TRAIN = Command("train", "train a network, by default on the digits in the package", _add_train_options, _train)
RESUME = Command("resume", "continue an interrupted run; the result has the same bits", _add_resume_options, _resume)
