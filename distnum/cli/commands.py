"""What each command does: calls the library, prints what came of it."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnum.cli.options import config_changes, config_of_options
from distnum.cli.output import DONE, INTERRUPTED, out_folder, write_json, write_output
from distnum.cli.scale import run_scale
from distnum.cli.submit.command import run_submit
from distnum.common.errors import InputError
from distnum.common.text import duration, print_remark
from distnum.storage.remote import run_exists
from distnum.storage.uris import is_uri
from distnum.training.config import Config

if TYPE_CHECKING:
    from distnum.storage.run_folder import RunFolder
    from distnum.training.result import TrainResult

__all__ = ["COMMANDS"]


def _train(options: argparse.Namespace) -> int:
    config = config_of_options(options).with_changes(config_changes(options))
    with out_folder(options.out, "runs") as out:
        return _run_training(options, config=config, out=out)


def _resume(options: argparse.Namespace) -> int:
    from distnum.storage.run_folder import RunFolder

    run = RunFolder.look(options.dir)
    changes = config_changes(options)
    Config().with_changes(changes)  # refuses bad values, also where there is nothing to do
    result = run.result()
    if result is None or "steps" in changes or not _has_whole_model(run):
        return _run_training(options, out=run.name, resume=True, **changes)
    if not options.quiet:
        print_remark(
            f"distnum: run {options.dir} is complete; there is nothing to resume. Train it further with --steps N."
        )
    if options.json:
        write_json(result | {"folder": run.name})
    return DONE


def _has_whole_model(run: RunFolder) -> bool:
    from distnum.networks.model import load_model

    if run.config_values().get("objective") == "python":
        return True
    try:
        load_model(run)
    except InputError as error:
        logging.getLogger("distnum").warning("%s It is written anew.", error)
        return False
    return True


def _run_training(options: argparse.Namespace, out: str, **arguments: Any) -> int:
    from distnum.training.display import Display
    from distnum.training.train import train

    watch = Display(out, quiet=options.quiet)
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


def _evaluate(options: argparse.Namespace) -> int:
    from distnum.datasets.readers import load_data
    from distnum.networks.metrics import evaluation_table
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder

    model = load_model(RunFolder.look(options.dir))
    dataset = load_data(options.data if options.data is not None else model.data)
    evaluation = model.evaluate(dataset)
    if options.json:
        write_json({"data": dataset.name} | evaluation.to_dict())
    else:
        write_output(f"{evaluation.n_examples:,} test examples of {dataset.name}\n{evaluation_table(evaluation)}")
    return DONE


def _predict(options: argparse.Namespace) -> int:
    from distnum.datasets.images import read_images
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder

    model = load_model(RunFolder.look(options.dir))
    if model.network.loss_function.name != "cross_entropy":
        raise InputError(f"run {options.dir!r} was not trained to label; predict needs loss cross_entropy.")
    predictions = []
    for name in options.file:
        x, remarks = read_images(Path(name), model, invert=options.invert)
        for remark in remarks:
            print_remark(f"distnum: {name}: {remark}")
        for number, row in enumerate(model.probabilities(x)):
            label = int(row.argmax())
            predictions.append(
                {"file": name, "example": number, "label": label, "probability": round(float(row[label]), 6)}
            )
    if options.json:
        write_json(predictions)
        return DONE
    n_of_file = Counter(one["file"] for one in predictions)
    for one in predictions:
        where = f"{one['file']}[{one['example']}]" if n_of_file[one["file"]] > 1 else one["file"]
        write_output(f"{where}  {one['label']}  (probability {one['probability']:.3f})")
    return DONE


def _plot(options: argparse.Namespace) -> int:
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder
    from distnum.training.config import config_of
    from distnum.training.plots import plot_curves, plot_weights

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
    write_output(str(out / "loss.png"))
    if model is not None and len(model.example_shape) == 2:
        config = config_of(run.config_values(), str(run.config_file))
        initial = model.network.initial_params(config.seed, config.init, config.init_std, config.dtype)
        plot_weights(model, initial, out / "weights.png")
        write_output(str(out / "weights.png"))
    return DONE


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "scale": run_scale,
    "submit": run_submit,
    "plot": _plot,
}
