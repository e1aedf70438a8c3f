"""The command line: reads options, calls the library, prints what came of it.

Results go to the standard output, progress and remarks to the error stream. Exit codes:
0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distnum import __version__
from distnum.config import Config, read_toml
from distnum.errors import InputError, TrainingError

if TYPE_CHECKING:
    from distnum.jobs import Job
    from distnum.loop import Step
    from distnum.metrics import Evaluation
    from distnum.pools import Pool
    from distnum.training import TrainResult

__all__ = ["main", "run"]

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run() -> NoReturn:
    """The command itself: ends the process with ``main``'s code."""
    code = main()
    if code == INTERRUPTED:
        # At once: what an interrupted library would still do at the end of the process can crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(format="distnum: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except TrainingError as error:
        return _complain(str(error), FAILED)
    except MemoryError as error:
        return _complain(f"this machine has not enough memory: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("DISTNUM_DEBUG"):
            raise
        return _complain(
            f"unexpected {type(error).__name__}: {error} (set DISTNUM_DEBUG=1 to see where; please report it)", FAILED
        )


def _complain(message: str, code: int) -> int:
    print(f"distnum: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


# --- options ------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="distnum",
        description="Train networks by numerical gradients, distributed over Ray. No backpropagation.",
        epilog="distnum COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distnum {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    train = _command(commands, "train", _train, "train a network, by default on the digits in the package")
    train.add_argument("--out", metavar="DIR", help="folder to keep the run in (default: runs/DATE-TIME)")
    train.add_argument("--config", metavar="FILE", help="TOML file with fields to begin with; options go before it")
    _add_config_options(train, [item.name for item in fields(Config)])
    _add_output_options(train)

    resume = _command(commands, "resume", _resume, "continue a run that was interrupted, to the same bits")
    resume.add_argument("dir", metavar="DIR", help="folder of the run")
    _add_config_options(resume, ["workers", "threads_per_worker", "address"])
    resume.add_argument("--steps", metavar="N", dest="steps", help="train to this step instead of the planned one")
    _add_output_options(resume)

    evaluate = _command(commands, "evaluate", _evaluate, "measure a trained network on test examples")
    evaluate.add_argument("dir", metavar="DIR", help="folder of the run")
    evaluate.add_argument("--data", metavar="DATA", help="other data than it was trained on")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    predict = _command(commands, "predict", _predict, "label images with a trained network")
    predict.add_argument("dir", metavar="DIR", help="folder of the run")
    predict.add_argument("file", metavar="FILE", nargs="+", help="a picture (PNG, ...) or a .npy array of examples")
    predict.add_argument("--invert", action="store_true", help="the picture is dark on light")
    predict.add_argument("--json", action="store_true", help="print one JSON object")

    plot = _command(commands, "plot", _plot, "draw the loss curve and the learned weights of a run")
    plot.add_argument("dir", metavar="DIR", help="folder of the run")
    plot.add_argument("--out", metavar="DIR", help="folder for the pictures (default: the run's)")
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
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


def _config_changes(options: argparse.Namespace) -> dict[str, Any]:
    names = {item.name for item in fields(Config)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


# --- train and resume -----------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from distnum.runs import config_of

    config = Config()
    if options.config is not None:
        config = config_of(read_toml(Path(options.config)), options.config)
    config = config.with_changes(_config_changes(options))
    if options.out == "":
        raise InputError("out is ''; it must name a folder.")
    out = Path(options.out) if options.out is not None else _new_run_folder()
    return _run_training(options, config=config, out=out)


def _resume(options: argparse.Namespace) -> int:
    from distnum.runs import RunFolder

    run = RunFolder.look(Path(options.dir))
    changes = _config_changes(options)
    Config().with_changes(changes)  # refuses bad values, also where there is nothing to do
    if run.complete and "steps" not in changes:
        print(f"distnum: run {options.dir} is complete; there is nothing to resume.", file=sys.stderr)
        return DONE
    return _run_training(options, out=run.path, resume=True, **changes)


def _new_run_folder() -> Path:
    from datetime import datetime

    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path = Path("runs") / name
    number = 2
    while path.exists():
        path = Path("runs") / f"{name}-{number}"
        number += 1
    return path


def _run_training(options: argparse.Namespace, out: Path, **arguments: Any) -> int:
    from distnum.training import train

    watch = _Watch(out, quiet=options.quiet)
    with watch.signals():
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
        print(json.dumps(result.to_dict() | {"folder": str(out)}))
    elif not options.quiet:
        _print_result(result)
    return DONE


def _interrupted(out: Path) -> int:
    if (out / "config.toml").exists():
        print(f"distnum: interrupted; the run is saved. Continue with: distnum resume {out}", file=sys.stderr)
    else:
        print("distnum: interrupted before the run began.", file=sys.stderr)
    return INTERRUPTED


class _Watch:
    """Shows a training, and ends it after the step under way when a signal asks for it."""

    def __init__(self, out: Path, quiet: bool) -> None:
        self._out = out
        self._quiet = quiet
        self._stop = False
        self._in_steps = False
        self._progress: Any = None
        self._job: Job | None = None
        self._done = 0

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        if self._progress is not None:
            self._progress.say(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def prepared(self, job: Job, done: int) -> None:
        self._job, self._done = job, done
        config, network, dataset = job.config, job.network, job.dataset
        assert network is not None
        assert dataset is not None
        what = f"{dataset.n_outputs} classes" if dataset.has_labels else f"{dataset.n_outputs} targets"
        self._say(
            f"network   {network}, {config.activation}, {config.loss}: {network.n_params:,} parameters, {config.dtype}"
        )
        self._say(
            f"data      {dataset.name}: {len(dataset.x_train):,} to train, {len(dataset.x_test):,} to test, {what}"
        )
        self._say(
            f"gradient  {config.scheme} differences, h = {config.step_size:g}, {config.method}: "
            f"{job.objective.n_evaluations:,} loss evaluations a step"
        )
        if done:
            self._say(f"resuming  {self._out} after step {done:,} of {config.steps:,}")
        if config.workers != 0 and done < config.steps:
            address = config.address or os.environ.get("RAY_ADDRESS")
            self._say(f"workers   {f'connecting to Ray at {address}' if address else 'starting Ray'} ...")

    def started(self, pool: Pool, gradient_s: float) -> None:
        from distnum.placement import estimate_step_s
        from distnum.progress import duration, open_progress

        assert self._job is not None
        config = self._job.config
        threads = f"{pool.n_threads} thread{'s' if pool.n_threads > 1 else ''}"
        serial = config.workers == 0
        where = f"this process, {threads}" if serial else f"{pool.n_workers} on Ray, {threads} each"
        self._say(f"workers   {where}")
        step_s, n_steps = estimate_step_s(gradient_s, pool), config.steps - self._done
        self._say(f"estimate  {n_steps:,} steps of about {duration(step_s)}: {duration(step_s * n_steps)}")
        self._install()  # Ray has put handlers of its own in place
        self._in_steps = True
        if not self._quiet:
            self._progress = open_progress(config.steps, self._done, 0 if serial else pool.n_workers)

    def stepped(self, step: Step, row: dict[str, Any]) -> bool:
        if self._progress is not None:
            self._progress.update(row)
        return self._stop

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM for a while."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self._stop or not self._in_steps:
            raise KeyboardInterrupt
        self._stop = True
        self._say("stopping after this step; once more to leave at once")


def _print_result(result: TrainResult) -> None:
    last = result.metrics[-1]
    parts = [f"loss {result.loss:.4f}"]
    if result.test is not None:
        parts.append(f"test loss {result.test.loss:.4f}")
        if result.test_accuracy is not None:
            parts.append(f"test accuracy {result.test_accuracy:.4f}")
    from distnum.progress import duration

    print(f"trained   {last['step']:,} steps in {duration(result.seconds['total'])}: {', '.join(parts)}")
    print(f"params    sha256 {result.params_sha256}")
    print(f"kept in   {result.folder}")


# --- evaluate, predict, plot ------------------------------------------------------------------


def _evaluate(options: argparse.Namespace) -> int:
    from distnum.data import load_data
    from distnum.models import load_model
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(Path(options.dir)))
    dataset = load_data(options.data if options.data is not None else model.data)
    evaluation = model.evaluate(dataset)
    if options.json:
        print(json.dumps({"data": dataset.name} | evaluation.to_dict()))
    else:
        print(f"{evaluation.n_examples:,} test examples of {dataset.name}")
        print(evaluation_table(evaluation))
    return DONE


def evaluation_table(evaluation: Evaluation) -> str:
    """An evaluation for people."""
    lines = [f"loss      {evaluation.loss:.4f}"]
    if evaluation.confusion is None:
        return lines[0]
    lines += [f"accuracy  {evaluation.accuracy:.4f}", "", "class    precision  recall      f1  examples"]
    for scores in evaluation.classes:
        lines.append(
            f"{scores.label:<8} {scores.precision:9.4f}  {scores.recall:6.4f}  {scores.f1:6.4f}  {scores.support:8,}"
        )
    averages = [evaluation.average(what) for what in ("precision", "recall", "f1")]
    lines.append(f"average  {averages[0]:9.4f}  {averages[1]:6.4f}  {averages[2]:6.4f}  {evaluation.n_examples:8,}")
    n_classes = len(evaluation.classes)
    if n_classes <= 20:
        width = max(5, len(str(int(evaluation.confusion.max()))) + 1)
        lines += ["", "rows: true class, columns: predicted"]
        lines.append("     " + "".join(f"{label:>{width}}" for label in range(n_classes)))
        for label, counts in enumerate(evaluation.confusion.tolist()):
            lines.append(f"{label:>5}" + "".join(f"{count or '.':>{width}}" for count in counts))
    return "\n".join(lines)


def _predict(options: argparse.Namespace) -> int:
    from distnum.models import load_model, read_images
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(Path(options.dir)))
    if model.network.loss_function.name != "cross_entropy":
        raise InputError(f"run {options.dir!r} was not trained to label; predict needs loss cross_entropy.")
    predictions = []
    for name in options.file:
        x, remarks = read_images(Path(name), model, invert=options.invert)
        for remark in remarks:
            print(f"distnum: {name}: {remark}", file=sys.stderr)
        for number, row in enumerate(model.probabilities(x)):
            label = int(row.argmax())
            predictions.append(
                {"file": name, "example": number, "label": label, "probability": round(float(row[label]), 6)}
            )
    if options.json:
        print(json.dumps(predictions))
        return DONE
    for one in predictions:
        several = sum(other["file"] == one["file"] for other in predictions) > 1
        where = f"{one['file']}[{one['example']}]" if several else one["file"]
        print(f"{where}  {one['label']}  (probability {one['probability']:.3f})")
    return DONE


def _plot(options: argparse.Namespace) -> int:
    from distnum.models import load_model
    from distnum.plots import plot_curves, plot_weights
    from distnum.runs import RunFolder, config_of

    run = RunFolder.look(Path(options.dir))
    out = Path(options.out) if options.out is not None else run.path
    if options.out == "" or not out.is_dir():
        raise InputError(f"out is {options.out!r}, which is not a folder; it must be one that exists.")
    rows = run.rows()
    model = load_model(run) if run.model_file.exists() else None
    plot_curves(rows, out / "loss.png")
    print(out / "loss.png")
    if model is not None and len(model.example_shape) == 2:
        config = config_of(run.config_values(), str(run.config_file))
        initial = model.network.initial_params(config.seed, config.init, config.init_std, config.dtype)
        plot_weights(model, initial, out / "weights.png")
        print(out / "weights.png")
    return DONE
