"""All commands, and those that read a run: ``evaluate``, ``predict`` and ``plot``.

A new command is two functions, one that adds its options and one that runs it, and an entry in
``COMMANDS``. Modules that are slow to import are imported by the function that needs them, so
that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from distnum.cli.check import CHECK
from distnum.cli.differentiate import DIFFERENTIATE
from distnum.cli.evaluations import EVALUATIONS
from distnum.cli.options import Command
from distnum.cli.output import DONE, write_json, write_output
from distnum.cli.scale import SCALE
from distnum.cli.submit.command import SUBMIT
from distnum.cli.train import RESUME, TRAIN
from distnum.common.errors import InputError
from distnum.common.text import print_remark
from distnum.storage.uris import is_uri

__all__ = ["COMMANDS"]


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the run")
    parser.add_argument("--data", metavar="DATA", help="other data than the network was trained on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _evaluate(options: argparse.Namespace) -> int:
    from distnum.datasets.readers import load_data
    from distnum.networks.metrics import evaluation_table
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder
    from distnum.training.from_files import check_local

    model = load_model(RunFolder.look(options.dir))
    if options.data is None:
        check_local(model.data, f"run {options.dir!r}")
    dataset = load_data(options.data if options.data is not None else model.data)
    evaluation = model.evaluate(dataset)
    if options.json:
        write_json({"data": dataset.name} | evaluation.to_dict())
    else:
        write_output(f"{evaluation.n_examples:,} test examples of {dataset.name}\n{evaluation_table(evaluation)}")
    return DONE


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the run")
    parser.add_argument("file", metavar="FILE", nargs="+", help="a picture (PNG, ...) or a .npy array of examples")
    parser.add_argument("--invert", action="store_true", help="the pictures are dark on light")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def _predict(options: argparse.Namespace) -> int:
    from distnum.datasets.images import read_images
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder

    model = load_model(RunFolder.look(options.dir))
    if model.network.loss_function.name != "cross_entropy":
        raise InputError(f"run {options.dir!r} has loss {model.network.loss_function.name}; predict needs labels.")
    predictions = []
    for name in options.file:
        x, remarks = read_images(Path(name), model.example_shape, model.pixels, model.params.dtype, options.invert)
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
    n_examples = Counter(prediction["file"] for prediction in predictions)
    for prediction in predictions:
        where = prediction["file"]
        if n_examples[where] > 1:
            where = f"{where}[{prediction['example']}]"
        write_output(f"{where}  {prediction['label']}  (probability {prediction['probability']:.3f})")
    return DONE


def _add_plot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the run")
    parser.add_argument("--out", metavar="DIR", help="folder for the pictures (default: the run's)")


def _plot(options: argparse.Namespace) -> int:
    from distnum.networks.model import load_model
    from distnum.storage.run_folder import RunFolder
    from distnum.training.config import config_of
    from distnum.training.plots import plot_curves, plot_weights

    run = RunFolder.look(options.dir)
    if is_uri(options.dir) and options.out is None:
        raise InputError(f"run is {options.dir!r}, a URI; name a folder here for the pictures, with --out.")
    out = Path(options.out if options.out is not None else options.dir)
    if options.out == "" or not out.is_dir():
        raise InputError(f"out is {options.out!r}, which is not a folder; it must be one that exists.")
    rows = run.rows.read()
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


COMMANDS = (
    TRAIN,
    RESUME,
    Command("evaluate", "measure a trained network on test examples", _add_evaluate_options, _evaluate),
    Command("predict", "label pictures or arrays with a trained network", _add_predict_options, _predict),
    Command("plot", "draw the loss curve and the learned weights of a run", _add_plot_options, _plot),
    SCALE,
    DIFFERENTIATE,
    CHECK,
    EVALUATIONS,
    SUBMIT,
)
