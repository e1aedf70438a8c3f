"""What each command does: calls the library, prints what came of it."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnum.config import Config
from distnum.errors import InputError, TrainingError
from distnum.kinds import as_int
from distnum.options import NOT_FOR_SCALE, config_changes, config_of_options
from distnum.progress import duration, tell
from distnum.remote import is_there
from distnum.submitted import submitted_command
from distnum.uris import is_uri

if TYPE_CHECKING:
    from distnum.runs import RunFolder
    from distnum.training import TrainResult

__all__ = ["BAD_INPUT", "COMMANDS", "DONE", "FAILED", "INTERRUPTED", "ReaderGone"]

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class ReaderGone(Exception):
    """Whoever read our output has closed it."""


def _print(text: str, end: str = "\n") -> None:
    """Print a result.

    Raises:
        TrainingError: the output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        # Python would try once more at the end, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise TrainingError(f"the standard output cannot be written: {error.strerror}.") from None


# --- train and resume -----------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    config = config_of_options(options).with_changes(config_changes(options))
    with _out_folder(options.out, "runs") as out:
        return _run_training(options, config=config, out=out)


def _resume(options: argparse.Namespace) -> int:
    from distnum.runs import RunFolder

    run = RunFolder.look(options.dir)
    changes = config_changes(options)
    Config().with_changes(changes)  # refuses bad values, also where there is nothing to do
    result = run.result()
    if result is None or "steps" in changes or not _has_whole_model(run):
        return _run_training(options, out=run.name, resume=True, **changes)
    if not options.quiet:
        tell(f"distnum: run {options.dir} is complete; there is nothing to resume. Train it further with --steps N.")
    if options.json:
        _print_json(result | {"folder": run.name})
    return DONE


def _has_whole_model(run: RunFolder) -> bool:
    from distnum.models import load_model

    if run.config_values().get("objective") == "python":
        return True
    try:
        load_model(run)
    except InputError as error:
        logging.getLogger("distnum").warning("%s It is written anew.", error)
        return False
    return True


@contextmanager
def _out_folder(name: str | None, parent: str) -> Iterator[str]:
    """The folder, or URI, of that name; without one a new folder below ``parent``, named after the time.

    A new one is gone again if nothing was put into it.
    """
    if name == "":
        raise InputError("out is ''; it must name a folder.")
    if name is not None:
        yield name
        return
    from datetime import datetime

    folder, time = Path(parent), datetime.now().strftime("%Y-%m-%d-%H%M%S")
    made_parent = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        for number in count(1):
            path = folder / (time if number == 1 else f"{time}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise InputError(f"out is {str(folder / time)!r}, where nothing can be kept: {error.strerror}.") from None
    try:
        yield str(path)
    finally:
        with suppress(OSError):  # it is in use
            path.rmdir()
            if made_parent:
                folder.rmdir()


def _run_training(options: argparse.Namespace, out: str, **arguments: Any) -> int:
    from distnum.training import train
    from distnum.watch import Watch

    watch = Watch(out, quiet=options.quiet)
    # Ray reports a worker's death on the standard output, which is for results.
    with watch.attention(), redirect_stdout(sys.stderr):
        try:
            result = train(
                out=out, on_prepared=watch.prepared, on_start=watch.started, on_step=watch.stepped, **arguments
            )
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
            watch.close()
            return _interrupted(out)
        finally:
            watch.close()
    if not result.completed:
        return _interrupted(out)
    if options.json:
        _print_json(result.to_dict() | {"folder": out})
    elif not options.quiet:
        _print_result(result)
    return DONE


def _print_json(value: Any) -> None:
    from distnum.runs import json_text

    _print(json_text(value))


def _interrupted(out: str) -> int:
    try:
        if is_there(out):
            tell(f"distnum: interrupted; the run is saved. Continue with: distnum resume {shlex.quote(out)}")
        else:
            tell("distnum: interrupted before the run began.")
    except InputError as error:
        tell(f"distnum: interrupted; whether the run is saved is not known: {error}")
    return INTERRUPTED


def _print_result(result: TrainResult) -> None:
    last = result.metrics[-1]
    parts = [f"loss {result.loss:.4f}"]
    if result.test is not None:
        parts.append(f"test loss {result.test.loss:.4f}")
        if result.test_accuracy is not None:
            parts.append(f"test accuracy {result.test_accuracy:.4f}")
    _print(
        f"trained   {last['step']:,} steps in {duration(result.seconds['steps'])}, this command "
        f"{duration(result.seconds['total'])}: {', '.join(parts)}\n"
        f"params    sha256 {result.params_sha256}\n"
        f"kept in   {result.folder}"
    )


# --- scale ------------------------------------------------------------------------------------


def _scale(options: argparse.Namespace) -> int:
    from distnum.experiments import scale
    from distnum.reports import scaling_report
    from distnum.watch import handled_signals

    changes = {name: value for name, value in config_changes(options).items() if name not in NOT_FOR_SCALE}
    config = config_of_options(options).with_changes(changes)
    if options.resume and options.out is None:
        raise InputError("resume needs --out DIR, the folder of the measurements.")
    say = (lambda text: None) if options.quiet else tell
    numbers = partial(_numbers, options)
    with _out_folder(options.out, "scaling") as name, redirect_stdout(sys.stderr), handled_signals():
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
            tell(f"distnum: interrupted; {kept}.")
            return INTERRUPTED
        pictures = [out / "scaling.png", out / "scaling.svg"]
        try:
            for picture in pictures:
                result.plot(picture)
        except InputError as error:
            tell(f"distnum: no picture was drawn: {error}")
            pictures = []
    if options.json:
        _print_json(result.to_dict() | {"folder": name})
    elif not options.quiet:
        kept = ", ".join(str(path) for path in [out / "scaling.csv", out / "scaling.json", *pictures])
        _print(f"{scaling_report(result)}\n\nkept in   {kept}")
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


# --- submit -----------------------------------------------------------------------------------


def _submit(options: argparse.Namespace) -> int:
    from distnum.submitting import Cluster

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
            _print(f"{job.number}  {job.status:<9}  {began:<19}  {job.command}")
        return DONE
    if options.stop:
        job = cluster.stop(options.stop)
        _print(f"{job.number}  {job.status}")
        return DONE
    if options.fetch:
        _print(str(cluster.fetch(options.fetch, Path(options.to or f"runs/{options.fetch}"))))
        return DONE
    number = options.follow
    if number is None:
        job = cluster.submit(command, files[2])
        if options.no_wait:
            _print(job.number)
            return DONE
        number = job.number
        tell(f"distnum: job {number} on {address}")
    try:
        code = cluster.follow(number, partial(_print, end=""))
    except KeyboardInterrupt:
        submit = f"distnum submit --address {address}"
        tell(f"distnum: job {number} goes on. Follow it with: {submit} --follow {number}")
        tell(f"distnum: or end it with: {submit} --stop {number}")
        return INTERRUPTED
    if code == INTERRUPTED:
        tell(f"distnum: job {number} was stopped.")
    elif not options.script and code == DONE:
        tell(f"distnum: bring the run here with: distnum submit --address {address} --fetch {number}")
    return code


# --- evaluate, predict, plot ------------------------------------------------------------------


def _evaluate(options: argparse.Namespace) -> int:
    from distnum.data import load_data
    from distnum.models import load_model
    from distnum.reports import evaluation_table
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(options.dir))
    dataset = load_data(options.data if options.data is not None else model.data)
    evaluation = model.evaluate(dataset)
    if options.json:
        _print_json({"data": dataset.name} | evaluation.to_dict())
    else:
        _print(f"{evaluation.n_examples:,} test examples of {dataset.name}\n{evaluation_table(evaluation)}")
    return DONE


def _predict(options: argparse.Namespace) -> int:
    from distnum.models import load_model, read_images
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(options.dir))
    if model.network.loss_function.name != "cross_entropy":
        raise InputError(f"run {options.dir!r} was not trained to label; predict needs loss cross_entropy.")
    predictions = []
    for name in options.file:
        x, remarks = read_images(Path(name), model, invert=options.invert)
        for remark in remarks:
            tell(f"distnum: {name}: {remark}")
        for number, row in enumerate(model.probabilities(x)):
            label = int(row.argmax())
            predictions.append(
                {"file": name, "example": number, "label": label, "probability": round(float(row[label]), 6)}
            )
    if options.json:
        _print_json(predictions)
        return DONE
    n_of_file = Counter(one["file"] for one in predictions)
    for one in predictions:
        where = f"{one['file']}[{one['example']}]" if n_of_file[one["file"]] > 1 else one["file"]
        _print(f"{where}  {one['label']}  (probability {one['probability']:.3f})")
    return DONE


def _plot(options: argparse.Namespace) -> int:
    from distnum.models import load_model
    from distnum.plots import plot_curves, plot_weights
    from distnum.runs import RunFolder, config_of

    run = RunFolder.look(options.dir)
    if is_uri(options.dir) and options.out is None:
        raise InputError(f"run is {options.dir!r}, a URI; name a folder here for the pictures, with --out.")
    out = Path(options.out) if options.out is not None else run.path
    if options.out == "" or not out.is_dir():
        raise InputError(f"out is {options.out!r}, which is not a folder; it must be one that exists.")
    rows = run.rows()
    of_network = run.config_values().get("objective") != "python"
    model = load_model(run) if run.model_file.exists() and of_network else None
    plot_curves(rows, out / "loss.png")
    _print(str(out / "loss.png"))
    if model is not None and len(model.example_shape) == 2:
        config = config_of(run.config_values(), str(run.config_file))
        initial = model.network.initial_params(config.seed, config.init, config.init_std, config.dtype)
        plot_weights(model, initial, out / "weights.png")
        _print(str(out / "weights.png"))
    return DONE


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "scale": _scale,
    "submit": _submit,
    "plot": _plot,
}
